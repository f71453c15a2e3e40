"""Where plugins are found, and what is said about those that can't be used."""

import pytest

from relayproxy.api import Plugin
from relayproxy.catalogue import Catalogue, PluginError, hooks_of

HOOK = "from relayproxy.api import Plugin, Settings, hook\n\n\n@hook\ndef message(mail):\n    return None\n"
CLASS = """
from relayproxy.api import Plugin, Settings, hook


class One(Plugin[Settings]):
    name = "{name}"

    @hook
    def message(self, mail):
        return None
"""


@pytest.fixture
def catalogue(tmp_path):
    """Return a catalogue of a folder with these files."""

    def made(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        return Catalogue([tmp_path])

    return made


def test_all_kinds_are_found_by_name(catalogue, tmp_path):
    found = catalogue(mine=HOOK, _helper="x = 1", test_mine="x = 1", conftest="x = 1")
    assert found.sources["spf"].kind == "built-in"
    assert (found.sources["mine"].kind, found.sources["mine"].place) == ("file", str(tmp_path / "mine.py"))
    assert {"_helper", "test_mine", "conftest", "_lookup"} & set(found) == set()
    assert len(found) == len(list(found))
    assert "mine" in found
    assert found["mine"] is found["mine"]


def test_a_module_may_say_what_a_class_does(catalogue):
    cls = catalogue(mine=f"after = ('spf',)\nsigner = True\n{HOOK}")["mine"]
    assert issubclass(cls, Plugin)
    assert (cls.name, cls.after, cls.signer) == ("mine", ("spf",), True)
    assert set(hooks_of("mine", cls(cls.settings()))) == {"message"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "holds no plugin"),
        ("def f(:\n", "invalid syntax"),
        ("\n\nraise ValueError('no model')\n", "mine: ValueError: no model"),
        (f"api = '99'\n{HOOK}", "is written for API 99"),
        (CLASS.format(name="other"), "calls itself 'other' but is found as 'mine'"),
        (CLASS.format(name="mine") + CLASS.format(name="mine").replace("One", "Two"), "holds no plugin"),
    ],
)
def test_what_is_no_plugin_says_why_and_where(catalogue, tmp_path, text, said):
    with pytest.raises(PluginError) as caught:
        catalogue(mine=text)["mine"]
    assert said in str(caught.value)
    assert caught.value.file == str(tmp_path / "mine.py")
    assert caught.value.line == (3 if "ValueError" in said else 1 if "syntax" in said else 0)


def test_of_several_classes_the_one_that_is_called_so_counts(catalogue):
    text = CLASS.format(name="other") + CLASS.format(name="mine").replace("One", "Two")
    assert catalogue(mine=text)["mine"].__name__ == "Two"


def test_two_of_one_name_are_an_error(catalogue):
    with pytest.raises(PluginError, match="two plugins are called 'spf'"):
        catalogue(spf=HOOK)


def test_a_folder_must_be_there(tmp_path):
    with pytest.raises(PluginError, match="does not exist"):
        Catalogue([tmp_path / "none"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HOOK.replace("message", "mesage"), "there is no hook 'mesage'; did you mean 'message'?"),
        (HOOK.replace("message(mail)", "message(letter)"), "letter"),
        (HOOK.replace("@hook", "@hook(screen='matters')"), "names the screen 'matters', which is not there"),
    ],
)
def test_a_hook_that_is_none_is_an_error(catalogue, text, said):
    cls = catalogue(mine=text)["mine"]
    with pytest.raises(PluginError) as caught:
        hooks_of("mine", cls(cls.settings()))
    assert said in str(caught.value)
