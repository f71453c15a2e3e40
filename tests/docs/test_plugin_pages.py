"""The pages of plugins name every setting and every plugin that there is."""

from pathlib import Path

import pytest

from relayproxy.builtin._dnsbl_settings import DnsblSettings, ListSettings
from relayproxy.builtin._remote import Breaker
from relayproxy.builtin._score_settings import HeaderNames, ScoreSettings, Thresholds
from relayproxy.builtin.address_rewrite import AddressRewriteSettings, Pattern, Rewriting
from relayproxy.builtin.aliases import AliasesSettings
from relayproxy.builtin.arc import ArcSettings, Sealing
from relayproxy.builtin.attachments import AttachmentsSettings
from relayproxy.builtin.bayes import BayesSettings
from relayproxy.builtin.bounces import BouncesSettings
from relayproxy.builtin.campaign import CampaignSettings
from relayproxy.builtin.clamav import ClamavSettings
from relayproxy.builtin.compliance import ComplianceSettings
from relayproxy.builtin.dkim_sign import Bound, DkimSignSettings, NamedKey
from relayproxy.builtin.dkim_verify import DkimVerifySettings
from relayproxy.builtin.exec import ExecSettings, Program
from relayproxy.builtin.footer import Footer, FooterSettings
from relayproxy.builtin.greylist import GreylistSettings
from relayproxy.builtin.headers import HeadersSettings
from relayproxy.builtin.http import HttpSettings, WebService
from relayproxy.builtin.list_unsubscribe import ListUnsubscribeSettings
from relayproxy.builtin.milter import MilterServer, MilterSettings
from relayproxy.builtin.mime_guard import MimeGuardSettings
from relayproxy.builtin.ratelimit import Limit
from relayproxy.builtin.reputation import ReputationSettings, Scales
from relayproxy.builtin.require_tls import Requirement, RequireTlsSettings
from relayproxy.builtin.rspamd import RspamdSettings
from relayproxy.builtin.spamassassin import SpamassassinSettings
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
        ("clamav.md", ClamavSettings),
        ("bounces.md", BouncesSettings),
        ("campaign.md", CampaignSettings),
        ("compliance.md", ComplianceSettings),
        ("dkim_verify.md", DkimVerifySettings),
        ("milter.md", MilterServer),
        ("milter.md", MilterSettings),
        ("rspamd.md", RspamdSettings),
        ("scripts.md", ExecSettings),
        ("scripts.md", HttpSettings),
        ("scripts.md", Program),
        ("scripts.md", WebService),
        ("services.md", Breaker),
        ("spamassassin.md", SpamassassinSettings),
        ("srs.md", SrsSettings),
        ("suppression.md", SuppressionSettings),
        ("webhooks.md", WebhooksSettings),
        ("arc.md", ArcSettings),
        ("arc.md", Sealing),
        ("dnsbl.md", DnsblSettings),
        ("dnsbl.md", ListSettings),
        ("greylist.md", GreylistSettings),
        ("ratelimit.md", Limit),
        ("reputation.md", ReputationSettings),
        ("reputation.md", Scales),
        ("score.md", HeaderNames),
        ("score.md", ScoreSettings),
        ("score.md", Thresholds),
        ("address_rewrite.md", AddressRewriteSettings),
        ("address_rewrite.md", Rewriting),
        ("address_rewrite.md", Pattern),
        ("aliases.md", AliasesSettings),
        ("attachments.md", AttachmentsSettings),
        ("bayes.md", BayesSettings),
        ("footer.md", FooterSettings),
        ("footer.md", Footer),
        ("list_unsubscribe.md", ListUnsubscribeSettings),
        ("mime_guard.md", MimeGuardSettings),
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
