"""`relayproxy learn`: tell the built-in classifier what is spam and what isn't, from files, folders, mailboxes or a pipe.

Must not know how a message is judged.
"""

import mailbox
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click

from relayproxy.cli.common import CONFIG_OPTION, fail, find_config

_LARGEST = 52_428_800  # octets of one message
_NEWLINE = re.compile(rb"\r?\n")
_SKIPPED = ("dovecot", ".")  # what mailboxes keep beside their messages


@click.command()
@CONFIG_OPTION
@click.option(
    "--store",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The store; without it, the one that `bayes` has in the configuration.",
)
@click.argument("kind", type=click.Choice(["spam", "ham"]))
@click.argument(
    "places", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True, path_type=Path)
)
def learn(path: Path | None, store: Path | None, kind: str, places: tuple[Path, ...]) -> None:
    """Learn the messages in PLACES as spam, or as ham (what is wanted).

    A place is a file with a message, an mbox, a folder (a Maildir too, with all below it) or - for a message on
    standard input. What was learned already is passed over, and what was learned as the other kind is moved. The store
    is made if it isn't there; a running proxy sees what is new at once.
    """
    from relayproxy.builtin._bayes_store import Store, StoreFault
    from relayproxy.builtin._bayes_words import digest_of, words_of
    from relayproxy.model.message import Message

    done: Counter[str] = Counter()
    try:
        base = Store(store or _configured(path), create=True)
        try:
            for place in places:
                for raw in _messages(place):
                    if len(raw) > _LARGEST:
                        done["too large"] += 1
                        continue
                    message = Message.from_bytes(_NEWLINE.sub(b"\r\n", raw))
                    done[base.learn(digest_of(message), words_of(message), spam=kind == "spam")] += 1
            spam, ham = base.totals()
        finally:
            base.close()
    except (StoreFault, OSError) as fault:
        fail(fault)
    told = ", ".join(f"{done[word]} {word}" for word in ("new", "moved", "known", "too large") if done[word])
    click.echo(f"{kind}: {told or 'no messages'}; learned in all: {spam} spam, {ham} ham")


def _configured(path: Path | None) -> Path:
    """Return the store of the configuration, or the default name where it has none."""
    from relayproxy.builtin.bayes import BayesSettings
    from relayproxy.config import load as loader

    place = find_config(path)
    loaded = loader.load(place) if place else None
    for _, _, options in loaded.choices if loaded else ():
        if loaded is not None and isinstance(options, BayesSettings):
            return loaded.folder / options.file
    return Path(BayesSettings().file)


def _messages(place: Path) -> Iterator[bytes]:
    if str(place) == "-":
        yield sys.stdin.buffer.read(_LARGEST + 1)
        return
    files = sorted(one for one in place.rglob("*") if one.is_file()) if place.is_dir() else [place]
    for file in files:
        if place.is_dir() and file.name.startswith(_SKIPPED):
            continue
        with file.open("rb") as opened:
            is_mbox = opened.read(5) == b"From "
            if not is_mbox:
                opened.seek(0)
                yield opened.read(_LARGEST + 1)
        if is_mbox:
            with closing(mailbox.mbox(file, create=False)) as box:
                for key in box.iterkeys():
                    yield box.get_bytes(key)
