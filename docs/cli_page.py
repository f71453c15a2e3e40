"""Write docs/cli.md from the commands' own help, so that the page can't say what the program doesn't.

Must not hold a fact about any single command, but for the JSON of `relayproxy test`, which is a contract.
"""
# ruff: noqa: INP001  (a folder of pages is no package)

from collections.abc import Iterator

import click

from relayproxy.cli.root import main

_WIDTH = 100
_INTRO = """\
# Command line

`docs/cli_page.py` writes this page from the help of the commands; `relayproxy COMMAND --help` prints the same.

Exit codes: 0 all is well; 1 a negative result (`check --strict`, `test --expect`, a failed reload); 2 wrong usage;
69 no running proxy answers; 78 the configuration has a mistake.

Commands that need a configuration take `-C FILE`, or else ./relayproxy.yaml, or else /etc/relayproxy/relayproxy.yaml.
`status`, `reload` and `stop` talk to the running proxy through its control socket.
"""
_JSON = """\
## The JSON of `relayproxy test -o json`

| key | meaning |
|---|---|
| `verdict` | `accept`, `discard`, `hold`, `defer` or `reject`: what the client would experience |
| `reply` | the reply that decides: to the content, or the first refusal before it |
| `recipients` | each recipient with the reply to its RCPT (or, under LMTP, to the content) |
| `direction` | `inbound`, `outbound` or `internal`; empty if it did not come to a mail |
| `score` | the sum of the findings' scores |
| `seconds` | how long all of it took |
| `findings` | in pipeline order: `method`, `result`, `score`, `by` (the plugin), `props`, `reason` |
| `edits` | lines of a unified diff of what went to the next hop against what came, trace fields included |
| `headers` | the header fields that went to the next hop, as pairs of name and value, unfolded |
| `hooks` | in the order in which they finished: `hook`, `plugin`, `seconds`, `answer`, `error` |

`edits` and `headers` are empty when nothing went on. `answer` is a verdict or `ok` (no opinion) of a decide hook,
`N edits` of a rewrite hook, `not run` where an earlier refusal made it needless, and begins with `would` under
`mode: observe`. Hooks that report (`after_forward`, `session_closed`) run only when `--to` forwards the message for
real, and `auth` hooks never do: there is no password to ask them about. Keys may be added in later versions; none of
these goes away or changes its meaning.
"""


def render() -> str:
    """Return the page."""
    with click.Context(
        main, info_name="relayproxy", terminal_width=_WIDTH, **main.context_settings
    ) as context:
        sections = list(_sections(main, context, 2))
    return "\n".join([_INTRO, *sections, _JSON])


def _sections(command: click.Command, context: click.Context, depth: int) -> Iterator[str]:
    yield f"{'#' * depth} {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if inner is not None and not inner.hidden:
            with click.Context(inner, info_name=name, parent=context, terminal_width=_WIDTH) as below:
                yield from _sections(inner, below, depth if depth == 2 and command is main else depth + 1)
