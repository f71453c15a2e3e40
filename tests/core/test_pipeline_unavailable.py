"""A service that does not answer is a fault of the plugin like any other, but not one for the plugin's author."""

import pytest

from relayproxy.api import Mail, Plugin, Settings, Unavailable, hook
from relayproxy.testing.session import SessionDriver, entry_for

RAW = b"Subject: x\r\n\r\nHello\r\n"


class Waiting(Plugin[Settings]):
    """Needs what isn't there."""

    name = "waiting"

    @hook
    async def message(self, mail: Mail) -> None:
        raise Unavailable("the service is down")


@pytest.mark.parametrize(
    ("on_error", "code", "status"),
    [("defer", 451, "4.3.0"), ("skip", 250, "2.0.0"), ("reject", 554, "5.3.0"), ("hold", 451, "4.3.5")],
)
async def test_on_error_says_what_becomes_of_the_mail(on_error, code, status):
    driver = SessionDriver(entry_for(Waiting, on_error=on_error))
    delivery = await driver.deliver(RAW)
    assert (delivery.reply.code, delivery.reply.status) == (code, status)
    assert "down" not in str(delivery.reply)
    assert delivery.mail.trace[0].error == "the service is down"
    assert not any("plugin_fault" in line for line in driver.log), "whoever noticed has logged it, once"
    assert driver.services.metrics.cell("plugin_errors_total", "waiting", "unavailable").value == 1
