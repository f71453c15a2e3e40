"""The pipeline: order, concurrency, the fence, and what a later hook sees."""

import asyncio
import itertools

import pytest

from relayproxy.api import Action, AddHeader, Finding, Plugin, accept, defer, discard, hold, hook, reject
from relayproxy.testing.session import SessionDriver, entry_for

RAW = b"From: <a@example.org>\r\nSubject: x\r\n\r\nhello\r\n"


def plugin(name, **members):
    """Make a plugin class with these members and return an instance."""
    cls = type(name.title(), (Plugin,), {"name": name, **members})
    return cls(cls.settings())


class Noting(Plugin):
    """Notes a fact."""

    name = "noting"

    @hook
    async def message(self, mail):
        await asyncio.sleep(0)
        mail.note("weather", "pass", score=1.5, header__x="sunny")


class Reading(Plugin):
    """Refuses when the fact is there."""

    name = "reading"

    @hook
    def message(self, mail):
        found = mail.finding("weather")
        return reject(f"seen {found.result} by {found.by}") if found else None


async def test_a_later_hook_sees_an_earlier_finding():
    driver = SessionDriver(Noting(Noting.settings()), Reading(Reading.settings()))
    delivery = await driver.deliver(RAW)
    assert str(delivery.reply).startswith("550 5.7.1 seen pass by noting")
    assert delivery.mail.findings == (Finding("weather", "pass", 1.5, {"header.x": "sunny"}, "", "noting"),)
    assert delivery.sent is None


async def test_an_earlier_hook_does_not_see_a_later_finding():
    driver = SessionDriver(Reading(Reading.settings()), Noting(Noting.settings()))
    assert (await driver.deliver(RAW)).reply.ok


class Gate:
    """Lets hooks finish in an order that the test chooses."""

    def __init__(self):
        self.started = []
        self.open = {}
        self._news = asyncio.Event()

    async def until(self, count):
        """Wait until so many hooks have started."""
        while len(self.started) < count:
            self._news.clear()
            await self._news.wait()

    def member(self, name, answer):
        self.open[name] = asyncio.Event()

        @hook
        async def message(_self, mail):
            self.started.append(name)
            self._news.set()
            await self.open[name].wait()
            mail.note(name, "hit")
            return answer

        return message


async def test_hooks_that_need_nothing_run_at_once_and_the_order_of_the_yaml_decides():
    answers = {"a": None, "b": reject("from b"), "c": reject("from c")}
    for finishing in itertools.permutations("abc"):
        gate = Gate()
        plugins = [plugin(n, after=(), message=gate.member(n, answer)) for n, answer in answers.items()]
        driver = SessionDriver(*plugins)
        task = asyncio.create_task(driver.deliver(RAW))
        await gate.until(3)
        for name in finishing:
            gate.open[name].set()
            await asyncio.sleep(0)
        delivery = await task
        assert [finding.method for finding in delivery.mail.findings] == ["a", "b", "c"]
        assert "from b" in delivery.reply.text


async def test_after_makes_a_hook_wait_for_what_it_names_only():
    gate = Gate()
    driver = SessionDriver(
        plugin("slow", after=(), message=gate.member("slow", None)),
        plugin("needed", after=(), message=gate.member("needed", None)),
        plugin("last", after=("needed",), message=gate.member("last", None)),
    )
    task = asyncio.create_task(driver.deliver(RAW))
    await gate.until(2)
    assert gate.started == ["slow", "needed"]
    gate.open["needed"].set()
    await gate.until(3)
    assert gate.started[-1] == "last"
    for event in gate.open.values():
        event.set()
    assert (await task).reply.ok


async def test_a_background_hook_starts_early_and_is_joined_where_it_is_needed():
    order = []
    ready = asyncio.Event()

    @hook(background=True)
    async def mail_hook(_self, mail):
        order.append("started")
        await ready.wait()
        mail.note("early", "pass")
        order.append("finished")

    @hook
    def rcpt(_self, mail, rcpt):
        order.append(f"rcpt {rcpt.address}")
        ready.set()

    @hook
    def message(_self, mail):
        order.append(f"message {mail.finding('early').result}")

    driver = SessionDriver(
        plugin("early", mail=mail_hook),
        plugin("recipients", after=(), rcpt=rcpt),
        plugin("late", message=message),
    )
    mail_hook.__name__ = "mail"
    assert (await driver.deliver(RAW)).reply.ok
    assert sorted(order[:2]) == ["rcpt b@example.net", "started"]
    assert order[2:] == ["finished", "message pass"]


class Cancelling:
    """Raises CancelledError of its own making."""

    async def __call__(self):
        task = asyncio.ensure_future(asyncio.sleep(1))
        task.cancel()
        await task


FAULTS = {
    "raises": lambda: (_ for _ in ()).throw(RuntimeError("secret dsn")),
    "memory": lambda: (_ for _ in ()).throw(MemoryError()),
    "exits": lambda: (_ for _ in ()).throw(SystemExit(3)),
    "group": lambda: (_ for _ in ()).throw(ExceptionGroup("several", [ValueError("x")])),
    "returns text": lambda: "nonsense",
    "returns edits": lambda: [AddHeader("X-A", "b")],
}


def faulty(fault, *, waits=False):
    async def later(_self, mail):
        await asyncio.sleep(0)
        return FAULTS[fault]()

    def now(_self, mail):
        return FAULTS[fault]()

    member = later if waits else now
    member.__name__ = "message"
    return plugin("faulty", message=hook(member))


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_a_451_and_its_text_stays_here(fault, waits):
    driver = SessionDriver(faulty(fault, waits=waits))
    delivery = await driver.deliver(RAW)
    assert (delivery.reply.code, delivery.reply.status) == (451, "4.3.0")
    assert "secret" not in delivery.reply.text
    assert any("plugin_fault" in line for line in driver.log)
    assert (await driver.deliver(RAW)).reply.code == 451


@pytest.mark.parametrize(
    ("on_error", "code"), [("defer", 451), ("skip", 250), ("reject", 554), ("hold", 451)]
)
async def test_on_error_says_what_a_fault_means(on_error, code):
    driver = SessionDriver(entry_for(faulty("raises"), on_error=on_error))
    assert (await driver.deliver(RAW)).reply.code == code


async def test_a_hook_that_hangs_is_given_up(fake_clock):
    @hook
    async def message(_self, mail):
        await asyncio.Event().wait()

    driver = SessionDriver(entry_for(plugin("hanging", message=message), timeout=0.01))
    delivery = await driver.deliver(RAW)
    assert (delivery.reply.code, delivery.reply.status) == (451, "4.3.0")
    assert delivery.mail.trace[-1].error.startswith("no answer within")


async def test_a_cancellation_from_within_is_a_fault_like_any_other():
    @hook
    async def message(_self, mail):
        await Cancelling()()

    assert (await SessionDriver(plugin("cancelling", message=message)).deliver(RAW)).reply.code == 451


async def test_observe_decides_nothing_and_says_what_it_would_have():
    @hook
    def message(_self, mail):
        return reject("no")

    @hook
    def before_forward(_self, mail):
        return AddHeader("X-No", "1")

    entry = entry_for(plugin("watcher", message=message, before_forward=before_forward), observe=True)
    driver = SessionDriver(entry)
    delivery = await driver.deliver(RAW)
    assert delivery.reply.ok
    assert b"X-No" not in delivery.sent.data
    assert sum("would_have" in line for line in driver.log) == 2


@pytest.mark.parametrize(
    ("verdicts", "winner"),
    [
        ((accept(), discard()), Action.DISCARD),
        ((discard(), hold("x")), Action.HOLD),
        ((hold("x"), defer()), Action.DEFER),
        ((defer(), reject()), Action.REJECT),
        ((reject(), accept()), Action.REJECT),
    ],
)
async def test_the_strongest_verdict_wins(verdicts, winner):
    def deciding(verdict):
        @hook
        def message(_self, mail):
            return verdict

        return message

    plugins = [plugin(f"p{n}", after=(), message=deciding(v)) for n, v in enumerate(verdicts)]
    delivery = await SessionDriver(*plugins).deliver(RAW)
    codes = {Action.DISCARD: 250, Action.HOLD: 451, Action.DEFER: 451, Action.REJECT: 550}
    assert delivery.reply.code == codes[winner]
    assert delivery.sent is None


async def test_signers_come_last_whatever_the_yaml_says():
    order = []

    def naming(name):
        @hook
        def before_forward(_self, mail):
            order.append(name)
            return AddHeader(f"X-{name}", str(len(mail.message.fields)))

        return before_forward

    driver = SessionDriver(
        plugin("signer", signer=True, before_forward=naming("signer")),
        plugin("other", before_forward=naming("other")),
    )
    delivery = await driver.deliver(RAW)
    assert order == ["other", "signer"]
    assert b"X-signer: 3\r\nX-other: 2\r\n" in delivery.sent.data


async def test_report_hooks_hear_the_outcome_and_can_not_harm():
    heard = []

    @hook
    def after_forward(_self, mail, outcomes):
        heard.extend(outcomes)
        raise RuntimeError("too late to matter")

    delivery = await SessionDriver(plugin("reporter", after_forward=after_forward)).deliver(RAW)
    assert delivery.reply.ok
    assert [(str(one.recipient.address), one.state) for one in heard] == [("b@example.net", "done")]
