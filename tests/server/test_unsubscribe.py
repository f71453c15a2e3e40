"""The unsubscribe page: what changes something and what doesn't, and how much one client may ask (RFC 8058)."""

import asyncio
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayproxy.mailauth.unsubscribe_token import Unsubscription, make_token
from relayproxy.server.http import Request
from relayproxy.server.unsubscribe import RESULTS, Unavailable, UnsubscribePage
from relayproxy.testing.clock import FakeClock

TOKEN = make_token(b"key", "news.example.org", "a@example.net", 1_790_000_000)
WISH = Unsubscription("news.example.org", "a<b>@example.net", 20_000)
FORM = "application/x-www-form-urlencoded"
BODY = b"List-Unsubscribe=One-Click"
PARTS = b'--xyz\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--xyz--\r\n'


class Desk:
    """A page, what it was told to keep, and what it counted."""

    def __init__(self, **settings):
        self.kept, self.counted, self.down = [], [], False
        self.clock = FakeClock(1000.0)
        given = {"per_minute": 60, **settings}
        self.page = UnsubscribePage(
            self.read, self.keep, counted=self.counted.append, monotonic=self.clock.monotonic, **given
        )

    async def read(self, token):
        if self.down:
            raise Unavailable
        return WISH if token == TOKEN else None

    async def keep(self, wish, client):
        if self.down:
            raise Unavailable
        self.kept.append((wish, client))

    async def ask(self, method="GET", target=f"/u/{TOKEN}", body=b"", kind=FORM, peer="192.0.2.1", **headers):
        named = {"content-type": kind} | {key.replace("_", "-"): value for key, value in headers.items()}
        answer = await self.page(Request(method, target, named, body, peer))
        names = [name.lower() for name, _ in answer.headers]
        assert "set-cookie" not in names
        assert "location" not in names
        return answer


async def test_a_post_unsubscribes_and_a_second_one_too():
    desk = Desk()
    for _ in range(2):
        assert (await desk.ask("POST", body=BODY)).code == 200
    assert desk.kept == [(WISH, "192.0.2.1")] * 2
    assert desk.counted == ["unsubscribed"] * 2


@pytest.mark.parametrize(
    "target", [f"/?t={TOKEN}", f"/v1.2/{TOKEN}?x=y", f"/a/{TOKEN}/", f"/?a=b&t={TOKEN}&c"]
)
async def test_the_token_may_be_anywhere_in_the_address(target):
    desk = Desk()
    assert (await desk.ask("POST", target, BODY)).code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_get_shows_a_button_and_changes_nothing(method):
    desk = Desk()
    answer = await desk.ask(method)
    assert (answer.code, desk.kept, desk.counted) == (200, [], ["shown"])
    text = answer.body.decode()
    assert '<form method="post">' in text
    assert 'name="List-Unsubscribe" value="One-Click"' in text
    assert "a&lt;b&gt;@example.net" in text
    fields = dict(answer.headers)
    assert fields["Referrer-Policy"] == "no-referrer"
    assert fields["Cache-Control"] == "no-store"


async def test_a_form_of_several_parts_as_the_rfc_recommends():
    desk = Desk()
    assert (await desk.ask("POST", body=PARTS, kind='multipart/form-data; boundary="xyz"')).code == 200
    assert (await desk.ask("POST", body=PARTS, kind="Multipart/Form-Data; boundary=xyz")).code == 200
    assert len(desk.kept) == 2


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", FORM),
        (b"List-Unsubscribe=Two-Clicks", FORM),
        (b"list=One-Click", FORM),
        (b"\xff\xfe=\x00", FORM),
        (b"&" * 8000, FORM),
        (BODY, "multipart/form-data; boundary=xyz"),
        (PARTS, "multipart/form-data"),
        (PARTS.replace(b"One", b"Two"), "multipart/form-data; boundary=xyz"),
        (PARTS.replace(b"Content-Disposition", b"X"), "multipart/form-data; boundary=xyz"),
        (b"\xff" * 100, "multipart/form-data; boundary=\xff\r\nX: y"),
    ],
)
async def test_another_body_changes_nothing(body, kind):
    desk = Desk()
    assert (await desk.ask("POST", body=body, kind=kind)).code == 400
    assert desk.kept == []


@pytest.mark.parametrize(
    "target", ["/", "/u/x", f"/u/{TOKEN[:-1]}", f"/u/{TOKEN[1:]}", f"/u/{TOKEN}x", "*", "/u/" + "a" * 9000]
)
async def test_a_bad_token_is_not_found(target):
    desk = Desk()
    assert (await desk.ask("POST", target, BODY)).code == 404
    assert (await desk.ask("GET", target)).code == 404
    assert (desk.kept, desk.counted) == ([], ["bad_token"] * 2)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "CONNECT"])
async def test_other_methods(method):
    desk = Desk()
    answer = await desk.ask(method)
    assert answer.code == 405
    assert dict(answer.headers)["Allow"] == "GET, HEAD, POST"


async def test_what_can_not_be_kept_is_a_503_to_be_tried_again():
    desk = Desk()
    desk.down = True
    answer = await desk.ask("POST", body=BODY)
    assert (answer.code, desk.counted) == (503, ["unavailable"])
    assert int(dict(answer.headers)["Retry-After"]) > 0


async def test_one_client_can_ask_so_often_and_others_are_not_kept_from_it():
    desk = Desk(per_minute=3)
    codes = [(await desk.ask(peer="192.0.2.1")).code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    assert (await desk.ask(peer="192.0.2.2")).code == 200
    desk.clock.advance(20)
    answers = [await desk.ask(peer="192.0.2.1") for _ in range(2)]
    assert [answer.code for answer in answers] == [200, 429]
    wait = int(dict(answers[1].headers)["Retry-After"])
    desk.clock.advance(wait)
    assert (await desk.ask(peer="192.0.2.1")).code == 200


async def test_a_64_of_ipv6_is_one_client():
    desk = Desk(per_minute=2)
    codes = [(await desk.ask(peer=f"2001:db8::{n}")).code for n in range(3)]
    assert codes == [200, 200, 429]
    assert (await desk.ask(peer="2001:db8:0:1::1")).code == 200


async def test_a_trusted_proxy_says_who_asks_and_nobody_else_does():
    desk = Desk(proxies=[ip_network("10.0.0.0/8")])
    for peer in ("10.1.1.1", "192.0.2.1", ""):
        await desk.ask("POST", body=BODY, peer=peer, x_forwarded_for="198.51.100.9, 203.0.113.5")
    await desk.ask("POST", body=BODY, peer="10.1.1.1", x_forwarded_for="nonsense")
    assert [client for _, client in desk.kept] == ["203.0.113.5", "192.0.2.1", "203.0.113.5", "10.1.1.1"]


def test_every_result_is_counted_somewhere():
    assert len(set(RESULTS)) == 6


@given(
    st.sampled_from(["GET", "POST"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=80),
    st.binary(max_size=300),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60),
)
def test_whatever_is_asked_there_is_an_answer(method, target, body, rest):
    desk = Desk()
    for kind in (rest, f"multipart/form-data; boundary={rest}"):
        for path in (target, f"/{TOKEN}{target}"):
            answer = asyncio.run(desk.ask(method, path, body, kind, x_forwarded_for=rest))
            assert answer.code in (200, 400, 404)
    assert desk.kept == []
