"""What TLS with one host has to be, as a value. Must not know where a demand comes from."""

from dataclasses import dataclass, field

from relayproxy.mailauth.dane import Dane
from relayproxy.mailauth.mta_sts import Policy


@dataclass(frozen=True, slots=True)
class Demand:
    """What TLS to one host has to be.

    `tls`: nothing is sent without. `verified`: a CA that is trusted has to vouch for the certificate and the host's name.
    `lenient`: should that fail, it is noted, and a connection without it will do (a policy in mode testing). `dane`: the
    TLSA records that the certificate has to match. `policy` is what of the domain asks for it: "sts", "tlsa" or "". `sts` is
    the policy file, for reports only: what two files ask for alike is one demand.
    """

    tls: bool = True
    verified: bool = False
    lenient: bool = False
    dane: Dane | None = None
    policy: str = ""
    sts: Policy | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the admin and one message ask of TLS to mail servers, before the recipients' domain is asked.

    `tls` is the upstream's, `consult` what of the domain counts ("dane", "mta-sts"). `requiretls` is the demand of RFC 8689,
    `encrypted` that of a plugin; `optional` says that the sender wants the domain's policies left aside (section 5 there).
    """

    tls: str = "opportunistic"
    consult: frozenset[str] = frozenset()
    requiretls: bool = False
    encrypted: bool = False
    optional: bool = False

    @property
    def consults(self) -> frozenset[str]:
        """What is looked up: what the admin insists on always, the rest unless nobody wants TLS or the sender doesn't."""
        insisted = {self.tls} & {"dane", "mta-sts"}
        if self.tls == "off" or (self.optional and not self.requiretls):
            return frozenset(insisted)
        return self.consult | insisted
