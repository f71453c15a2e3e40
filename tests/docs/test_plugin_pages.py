"""The pages of plugins name every setting and every plugin that there is."""

from pathlib import Path

import pytest

from relayproxy.builtin.arc import ArcSettings, Sealing
from relayproxy.builtin.bounces import BouncesSettings
from relayproxy.builtin.compliance import ComplianceSettings
from relayproxy.builtin.dkim_sign import Bound, DkimSignSettings, NamedKey
from relayproxy.builtin.dkim_verify import DkimVerifySettings
from relayproxy.builtin.headers import HeadersSettings
from relayproxy.builtin.require_tls import Requirement, RequireTlsSettings
from relayproxy.builtin.srs import SrsSettings
from relayproxy.builtin.suppression import SuppressionSettings
from relayproxy.builtin.webhooks import WebhooksSettings
from relayproxy.catalogue import Catalogue

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/plugins"
FOLDER = Catalogue([ROOT / "plugins"])
SINGLE_FILES = [name for name, source in FOLDER.sources.items() if source.kind == "file"]


@pytest.mark.parametrize(
    ("page", "settings"),
    [
        ("headers.md", HeadersSettings),
        ("require_tls.md", RequireTlsSettings),
        ("require_tls.md", Requirement),
        ("dkim_sign.md", DkimSignSettings),
        ("dkim_sign.md", NamedKey),
        ("dkim_sign.md", Bound),
        ("bounces.md", BouncesSettings),
        ("compliance.md", ComplianceSettings),
        ("dkim_verify.md", DkimVerifySettings),
        ("srs.md", SrsSettings),
        ("suppression.md", SuppressionSettings),
        ("webhooks.md", WebhooksSettings),
        ("arc.md", ArcSettings),
        ("arc.md", Sealing),
    ],
)
def test_a_built_in_page_names_all_settings(page, settings):
    text = (PAGES / page).read_text()
    assert [name for name in settings.model_fields if f"`{name}`" not in text] == []


def test_there_are_single_files():
    assert len(SINGLE_FILES) >= 5


@pytest.mark.parametrize("name", SINGLE_FILES)
def test_a_single_file_is_on_the_page_with_its_settings_and_has_a_test(name):
    text = (PAGES / "folder.md").read_text()
    assert f"| `{name}` |" in text
    assert [key for key in FOLDER[name].settings.model_fields if f"`{key}`" not in text] == []
    assert (ROOT / "tests/plugins" / f"test_{name}.py").is_file()
