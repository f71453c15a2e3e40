"""The plugin on the page about shared state does what the page says."""

import re
from pathlib import Path

from relayproxy.api import App, Recipient
from relayproxy.testing import FakeClock, FakeResolver, MemoryState
from relayproxy.testing.mail import call, load_plugin, make_address, make_mail

PAGE = Path(__file__).parents[2] / "docs/state.md"


async def test_the_plugin_of_the_page_notes_a_pair_once(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "first_contact.py").write_text(code)
    plugin = load_plugin(tmp_path / "first_contact.py")
    clock = FakeClock()
    app = App("mx.example.com", FakeResolver(), clock, tmp_path, state=MemoryState(clock.time))
    await call(plugin, "startup", app=app)
    seen = []
    for _ in range(2):
        mail = make_mail()
        await call(plugin, "rcpt", mail=mail, rcpt=Recipient(make_address("b@example.net")))
        seen.append(mail.finding("first_contact") is not None)
    assert seen == [True, False]
