"""How TLS to a next hop ended, in the words of RFC 8460 section 4.3.

Looks at what a connection attempt came to. Must not know who keeps count.
"""

import ssl
import time

from relayproxy.delivery.demand import Demand
from relayproxy.delivery.ratchet import Level, RatchetError
from relayproxy.delivery.settings import Address, UpstreamSettings
from relayproxy.delivery.tls_policy import DaneError, PolicyError
from relayproxy.mailauth.tls_report import sts_strings, tlsa_strings
from relayproxy.model.event import TlsEvent
from relayproxy.model.reply import printable

_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NOT_YET = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_NOT_OFFERED = "STARTTLS extension not supported"  # what aiosmtplib says
_OTHER_NAME = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def report(
    settings: UpstreamSettings,
    address: Address,
    demand: Demand | None,
    *,
    version: str = "",
    error: BaseException | None = None,
) -> None:
    """Tell `settings.on_tls` of one attempt, if TLS was wanted and it got so far that TLS can be judged.

    `demand` is what it was made under, `version` that of the session, "" if there is none; `error` is what ended the attempt,
    or None.
    """
    if settings.on_tls is None or settings.tls == "off" or address.path:
        return
    result = "success" if version else _failure(error)
    if result:
        policy = demand.policy if demand is not None and settings.demand is not None else ""
        _tell(settings, address, policy or settings.tls, result, version, str(error or ""), demand)


def refused(settings: UpstreamSettings, address: Address, error: PolicyError) -> None:
    """Tell `settings.on_tls` that no connection was tried, if that is for a reason of TLS."""
    if settings.on_tls is not None and error.result:
        _tell(settings, address, error.policy or settings.tls, error.result, "", str(error))


def _tell(
    settings: UpstreamSettings,
    address: Address,
    policy: str,
    result: str,
    version: str,
    reason: str,
    demand: Demand | None = None,
) -> None:
    assert settings.on_tls is not None
    host = address.name or address.host
    strings: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    if demand is not None and demand.dane is not None:
        strings = tlsa_strings(demand.dane.records)
    elif demand is not None and demand.sts is not None:
        strings, patterns = sts_strings(demand.sts), demand.sts.mx
    settings.on_tls(
        TlsEvent(
            time.time(),
            settings.name,
            host,
            host,
            address.port,
            policy,
            result,
            version,
            printable(reason, 200),
            strings,
            patterns,
        )
    )


def _failure(error: BaseException | None) -> str:
    """Return the failure type; "" for an attempt that failed before TLS or for another reason."""
    if error is None:
        return "starttls-not-supported"  # opportunistic: the connection goes on in the clear
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            code = cause.verify_code
            if code in _OTHER_NAME:
                return "certificate-host-mismatch"
            return "certificate-expired" if code in (_EXPIRED, _NOT_YET) else "certificate-not-trusted"
        if isinstance(cause, RatchetError):
            return "starttls-not-supported" if cause.level is Level.CLEAR else "certificate-not-trusted"
        if isinstance(cause, (ssl.SSLError, DaneError)):
            return "validation-failure"
        if _NOT_OFFERED in str(cause):
            return "starttls-not-supported"
        cause = cause.__cause__ or cause.__context__
    return ""
