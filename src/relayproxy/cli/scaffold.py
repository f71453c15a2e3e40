"""Write a new plugin and its passing test, for somebody to change into what they need.

Knows how a single-file plugin looks and nothing about the command line that asks for one.
"""

import keyword
import pkgutil
import re
from pathlib import Path
from string import Template

import relayproxy.builtin

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")

_PLUGIN = Template('''\
"""Refuse mail that has a certain header field; say here what yours does.

- $name:
    field: X-Unwanted
"""

from relayproxy.api import Mail, Opinion, Plugin, Settings, hook, reject


class ${cls}Settings(Settings):
    """What the YAML may say about this plugin."""

    field: str = "X-Unwanted"
    """Name of the header field."""


class $cls(Plugin[${cls}Settings]):
    """Look at the header, decide."""

    name = "$name"
    settings = ${cls}Settings

    @hook
    def message(self, mail: Mail) -> Opinion:
        """Judge a message that has arrived whole; None is no opinion."""
        value = mail.message.header(self.options.field)
        if value is None:
            return None
        mail.note("$name", "hit", reason=value)
        return reject("This message is not accepted here", reason=f"it has {self.options.field}")
''')

_TEST = Template('''\
"""What $name does, message by message."""

from pathlib import Path

from relayproxy.testing.mail import load_plugin, make_mail, run_hook

PLUGIN = Path(__file__).parents[1] / "$name.py"


def test_mail_with_the_field_is_refused() -> None:
    plugin = load_plugin(PLUGIN, field="X-Test")
    mail = make_mail(b"From: a@example.org\\r\\nX-Test: yes\\r\\n\\r\\nHello\\r\\n")
    verdict = run_hook(plugin, "message", mail=mail)
    assert str(verdict.reply) == "550 5.7.1 This message is not accepted here"
    finding = mail.finding("$name")
    assert finding is not None
    assert finding.reason == "yes"


def test_other_mail_is_not_its_business() -> None:
    plugin = load_plugin(PLUGIN)
    mail = make_mail(b"From: a@example.org\\r\\n\\r\\nHello\\r\\n")
    assert run_hook(plugin, "message", mail=mail) is None
''')


def new_plugin(name: str, folder: Path) -> list[Path]:
    """Write `folder/name.py` and `folder/tests/test_name.py` and return both paths.

    Folders are made where they are missing. Raises ValueError for a name that won't do as the name of a plugin
    and FileExistsError, with nothing written, when one of the files is there already.
    """
    _check(name)
    cls = "".join(part.capitalize() for part in name.split("_"))
    texts = {
        folder / f"{name}.py": _PLUGIN.substitute(name=name, cls=cls),
        folder / "tests" / f"test_{name}.py": _TEST.substitute(name=name),
    }
    for path in texts:
        if path.exists():
            raise FileExistsError(f"{path} exists and is left alone")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    return list(texts)


def _check(name: str) -> None:
    if not _NAME.match(name):
        raise ValueError(
            f"{name!r} won't do: a name has small letters, digits and underscores and begins with a letter"
        )
    if keyword.iskeyword(name):
        raise ValueError(f"{name!r} is a word of Python")
    if name == "conftest" or name.startswith("test_"):
        raise ValueError(f"pytest would take {name}.py for one of its own files")
    if name in {module.name for module in pkgutil.iter_modules(relayproxy.builtin.__path__)}:
        raise ValueError(f"there is a built-in plugin called {name}")
