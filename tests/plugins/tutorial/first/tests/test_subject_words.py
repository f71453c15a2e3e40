from pathlib import Path

from relayproxy.testing.mail import load_plugin, make_mail, run_hook

PLUGIN = Path(__file__).parents[1] / "subject_words.py"


def verdict_on(subject: bytes):
    mail = make_mail(b"From: a@example.org\r\nSubject: " + subject + b"\r\n\r\nHello\r\n")
    return run_hook(load_plugin(PLUGIN), "message", mail=mail)


def test_a_listed_word_is_refused():
    verdict = verdict_on(b"You won the LOTTERY")
    assert str(verdict.reply) == "550 5.7.1 The subject of this message is not accepted here"


def test_an_encoded_subject_is_read_as_people_see_it():
    assert verdict_on(b"=?utf-8?q?Lo=74tery?=") is not None


def test_other_mail_passes():
    assert verdict_on(b"Minutes of Monday") is None
