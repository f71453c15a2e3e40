"""`relayproxy help RP101`: what a code of `check` means."""

import click

from relayproxy.cli.common import fail


@click.command("help")
@click.argument("topic", required=False)
@click.pass_context
def help_(ctx: click.Context, topic: str | None) -> None:
    """Explain a code such as RP101, or list them all; also the help of a command."""
    from relayproxy.config.problems import CODES

    if topic is None:
        for code, (title, _) in CODES.items():
            click.echo(f"{code}  {title}")
        return
    code = topic.upper()
    if code in CODES:
        title, explanation = CODES[code]
        click.echo(f"{code}  {title}\n\n{explanation}")
        return
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    command = root.command.get_command(root, topic)
    if command is None:
        fail(f"there is no code and no command {topic!r}")
    with click.Context(command, info_name=topic, parent=root) as inner:
        click.echo(command.get_help(inner))
