from pathlib import Path

from relayproxy.api import AddHeader
from relayproxy.testing.mail import load_plugin, make_mail, run_hook

PLUGIN = Path(__file__).parents[1] / "subject_words.py"
MAIL = b"From: a@example.org\r\nSubject: Jackpot!\r\n\r\nHello\r\n"


def test_reject():
    plugin = load_plugin(PLUGIN, words=["jackpot"])
    verdict = run_hook(plugin, "message", mail=make_mail(MAIL))
    assert verdict.reply.code == 550


def test_tag():
    plugin = load_plugin(PLUGIN, words=["jackpot"], action="tag")
    mail = make_mail(MAIL)
    assert run_hook(plugin, "message", mail=mail) is None
    assert mail.score == 2.0
    assert run_hook(plugin, "before_forward", mail=mail, route="mailstore") == [
        AddHeader("X-Subject-Words", "yes")
    ]


def test_mail_without_a_hit_is_not_tagged():
    plugin = load_plugin(PLUGIN, words=["lottery"], action="tag")
    mail = make_mail(MAIL)
    assert run_hook(plugin, "message", mail=mail) is None
    assert run_hook(plugin, "before_forward", mail=mail, route="mailstore") == []
