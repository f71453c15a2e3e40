"""Rules for the bench: two hundred of all kinds, none of which matches its messages; and how long a file of them takes.

`python -m bench.rules` prints the seconds in which 250 KB of rules load, beside what PyYAML takes for the same file,
and the microseconds of asking 200 rules about a message of 4 KB: about messages that are alike, as those of the cell are,
and about messages none of which has the sender, HELO or subject of another (what a value leads to is looked up once).
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from bench.messages import plain
from relayproxy.api import Mail
from relayproxy.builtin.rules import Rules, ruleset_of
from relayproxy.config.load import load
from relayproxy.testing.mail import make_mail

COUNT = 200
_SIZE = 250_000
_CHANCE = random.Random(20261124)


def _word(length: int = 8) -> str:
    return "".join(_CHANCE.choices("abcdefghijklmnopqrstuvwxyz", k=length))


_KINDS: tuple[Callable[[int], tuple[dict[str, Any], dict[str, Any]]], ...] = (
    lambda _: ({"sender.domain": f"{_word()}.example"}, {"reject": "no"}),
    lambda _: ({"sender.domain": {"under": f"{_word()}.example"}}, {"reject": "no"}),
    lambda n: ({"client.ip": f"10.{n % 250}.0.0/16"}, {"reject": "no"}),
    lambda _: ({"client.helo": {"regex": f"^{_word()}[0-9]+\\."}}, {"defer": "later"}),
    lambda _: ({"subject": {"contains": _word()}}, {"score": 2}),
    lambda _: ({"subject": {"regex": f"\\b{_word(5)}\\s+{_word(5)}\\b"}}, {"score": 2}),
    lambda _: ({"from.name": {"glob": f"*{_word()}*"}, "from.domain": {"not": "bench.example"}}, {"score": 5}),
    lambda _: ({"header.list-id": {"contains": _word()}}, {"tag": _word()}),
    lambda _: ({"recipient": f"{_word()}@bench.example", "size": {"above": "5 MB"}}, {"reject": "big"}),
    lambda _: ({"finding.rspamd": "hit", "from.domain": f"{_word()}.example"}, {"reject": "no"}),
    lambda _: ({"attachment.extension": _word(3)}, {"score": 1}),
    lambda _: ({"any": [{"subject": {"starts_with": _word()}}, {"header.x-mailer": {"contains": _word()}}]}, {"score": 1}),
)  # fmt: skip


def make_rules(count: int) -> list[dict[str, Any]]:
    """Return so many rules, each kind as often as any other."""
    rules = []
    for number in range(count):
        match, then = _KINDS[number % len(_KINDS)](number)
        rules.append({"id": f"rule-{number}", "description": "one of many", "match": match, "then": then})
    return rules


def _config(rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "version": 1,
        "hostname": "relayproxy.bench.example",
        "listeners": [{"name": "bench", "listen": "127.0.0.1:2525"}],
        "relay": {"domains": ["bench.example"]},
        "upstreams": {"sink": {"address": "127.0.0.1:2526"}},
        "pipeline": ["rules"],
        "rules": rules,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "relayproxy.yaml"
        rules = make_rules(COUNT)
        while len(text := yaml.safe_dump(_config(rules), sort_keys=False)) < _SIZE:
            rules = make_rules(len(rules) + 100)
        path.write_text(text)
        start = time.process_time()
        yaml.load(text, Loader=yaml.CSafeLoader)
        between = time.process_time()
        loaded = load(path, environ={})
        end = time.process_time()
        assert loaded.config is not None
        print(
            f"{len(text):,} octets, {len(rules)} rules: {end - between:.2f} s, PyYAML alone {between - start:.2f} s"
        )
        path.write_text(json.dumps(_config(make_rules(COUNT))))
        plugin = Rules(load(path, environ={}).choices[0][2])
        print(
            f"{len(ruleset_of([(None, None, plugin.options)]))} rules on 4 KB: {_asking(plugin) * 1e6:.1f} us,"
            f" all different {_asking(plugin, different=True) * 1e6:.1f} us"
        )


def _asking(plugin: Rules, *, different: bool = False) -> float:
    """Return the seconds of both stages for one message: the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        mails = [_mail(different) for _ in range(2000)]
        start = time.process_time()
        for mail in mails:
            plugin.rcpt(mail, mail.envelope.recipients[0])
            plugin.message(mail)
        best = min(best, (time.process_time() - start) / len(mails))
    return best


def _mail(different: bool) -> Mail:
    raw = plain(4096)
    if not different:
        return make_mail(raw, sender="sender@bench.example")
    raw = raw.replace(b"A message of the bench", _word(22).encode()).replace(
        b"Sender <", _word().encode() + b" <"
    )
    mail = make_mail(raw, sender=f"{_word()}@{_word()}.example")
    mail.client = replace(mail.client, helo=f"{_word()}.example")
    return mail


if __name__ == "__main__":
    sys.exit(main())
