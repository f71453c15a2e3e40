"""Refuse senders whose domain is on a DNS block list of domains."""

from relayproxy.api import App, Direction, Mail, Opinion, Plugin, Settings, hook, reject


class DomainListSettings(Settings):
    """What the YAML may say about this plugin."""

    zone: str
    """The zone of the list."""


class DomainList(Plugin[DomainListSettings]):
    """Ask at MAIL, while the client is still sending."""

    name = "domain_list"
    settings = DomainListSettings
    after = ()
    directions = frozenset({Direction.INBOUND})

    @hook
    def startup(self, app: App) -> None:
        """Keep the resolver: it caches, has its time-outs and never raises."""
        self._resolver = app.resolver

    @hook(background=True)
    async def mail(self, mail: Mail) -> Opinion:
        """Look up the sender's domain. An answer outside 127.0.0.0/8 is an error of the list, not a hit."""
        domain = mail.envelope.sender.ascii_domain
        if not domain:
            return None
        answer = await self._resolver.query(f"{domain}.{self.options.zone}", "A")
        if answer.failed:
            mail.note("domain_list", "temperror")
        elif any(address.startswith("127.") for address in answer.records):
            mail.note("domain_list", "hit", score=5.0)
            return reject("The sender's domain is on a block list", reason=f"listed in {self.options.zone}")
        return None
