"""An Rspamd of the test's own that is asked over HTTP, with a few rules of the test's own and nothing from outside.

A message says by the words in its body what Rspamd shall think of it.
"""

import shutil
from pathlib import Path

from tests.servers.process import Process, free_port, need, program, public_folder

_CONFIG = """\
options {{
  pidfile = "{folder}/pid";
  control_socket = "{folder}/control mode=0600";
  tempdir = "{folder}";
  hs_cache_dir = "{folder}";
  url_tld = "{folder}/tlds";
  filters = "";
  history_rows = 1;
  dns {{ nameserver = ["127.0.0.1:{dns}"]; timeout = 0.1s; retransmits = 1; }}
}}
logging {{ type = "file"; filename = "{folder}/log"; level = "info"; }}
modules {{ path = "{folder}/modules"; }}
lua = "{folder}/rules.lua";
actions {{ reject = 15; rewrite_subject = 10; add_header = 6; greylist = 4; subject = "[spam] %s"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}
"""
_RULES = """\
local function words(task) return tostring(task:get_rawbody()) end
local function rule(name, word, score)
  rspamd_config:register_symbol({
    name = name, score = score, group = "test", description = "the word " .. word,
    callback = function(task) if words(task):find(word, 1, true) then task:insert_result(name, 1.0, "here") end end,
  })
end
rule("TEST_LOW", "low-word", 1.5)
rule("TEST_GREY", "grey-word", 5)
rule("TEST_MARK", "mark-word", 7)
rule("TEST_SUBJECT", "subject-word", 11)
rule("TEST_BAD", "reject-word", 20)
rspamd_config:register_symbol({
  name = "TEST_ENVELOPE", type = "postfilter", score = 0,
  callback = function(task)
    local add = function(name, value) task:set_milter_reply({ add_headers = { [name] = value } }) end
    local rcpts = {}
    for _, rcpt in ipairs(task:get_recipients("smtp") or {}) do table.insert(rcpts, rcpt.addr) end
    local from = (task:get_from("smtp") or {})[1]
    add("X-Seen", table.concat({
      tostring(task:get_ip()), tostring(task:get_helo()), tostring(task:get_hostname()), tostring(task:get_user()),
      from and from.addr or "", table.concat(rcpts, ","), tostring(task:get_queue_id()),
    }, " "))
    if words(task):find("headers-word", 1, true) then
      task:set_milter_reply({
        add_headers = { ["X-Two"] = { "first", "second" }, ["X-Top"] = { value = "top", order = 0 } },
        remove_headers = { ["X-Old"] = 0, ["X-Many"] = 2 },
      })
    end
    if words(task):find("soft-word", 1, true) then
      task:set_pre_result("soft reject", "come back later", "test")
    end
  end,
})
"""


class RspamdScanner(Process):
    """One instance on `port`."""

    def __init__(self) -> None:
        need("rspamd", root=False)
        self.folder = public_folder("rspamd")
        super().__init__("Rspamd", self.folder / "log")
        self.port = free_port()
        (self.folder / "modules").mkdir()
        (self.folder / "tlds").write_text("com\norg\nnet\n")
        (self.folder / "rules.lua").write_text(_RULES)
        text = _CONFIG.format(folder=self.folder, dns=free_port(), port=self.port)
        self.config: Path = self.folder / "rspamd.conf"
        self.config.write_text(text)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        variables = [f"--var={name}={self.folder}" for name in ("DBDIR", "RUNDIR", "LOGDIR")]
        self.spawn(program("rspamd"), "-f", "-i", "-c", str(self.config), *variables, cwd=self.folder)
        await self.until_listening(self.port)

    async def stop(self) -> None:
        """End it and remove its folder."""
        try:
            if self.popen is not None and self.popen.poll() is None:
                await self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
