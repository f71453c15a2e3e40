"""The hooks: every point at which a plugin can speak, told apart by what it may return.

Decide hooks return a Verdict or None. Rewrite hooks return edits. Report and prepare hooks return nothing. A plugin takes,
by name, only the arguments that it wants. Plain functions must be quick; what waits is `async def`.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import pluggy

from relayproxy.mailauth.unsubscribe_token import Unsubscription
from relayproxy.model.client import Client, Credentials, SessionTotals
from relayproxy.model.edits import Edit
from relayproxy.model.envelope import Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.outcome import Outcome
from relayproxy.model.verdict import Verdict

if TYPE_CHECKING:
    from relayproxy.api import App

PROJECT = "relayproxy"
hookspec = pluggy.HookspecMarker(PROJECT)

Opinion: TypeAlias = Verdict | None
Edits: TypeAlias = Iterable[Edit] | Edit | None

DECIDE = ("connect", "helo", "mail", "rcpt", "message")
PREPARE = ("arrived",)
REWRITE = ("rewrite_envelope", "before_forward")
REPORT = ("after_forward", "after_attempt", "session_closed")
LIFE = ("startup", "shutdown", "register_commands", "register_pages")
IDENTIFY = ("auth",)
SERVE = ("read_token", "unsubscribed")


class Hooks:
    """All hooks. The docstring of each is its page in the documentation."""

    @hookspec
    def connect(self, client: Client, note: Callable[..., Any]) -> Opinion:
        """A client has connected and waits for the banner. Kind: decide.

        A reject or defer is sent in place of the banner and the connection closed. `note(method, result, ...)`
        notes a finding that every message of this connection will carry.
        """

    @hookspec
    def helo(self, client: Client, name: str, note: Callable[..., Any]) -> Opinion:
        """The client said EHLO, HELO or LHLO with `name`. Kind: decide."""

    @hookspec
    def auth(self, client: Client, credentials: Credentials) -> str | None:
        """The client sent credentials. Kind: identify.

        Return the identity (the login that later checks and the log will see) to let it in, or None for no
        opinion. The first identity wins; when nobody returns one the client hears 535. Raising is a 454.
        """

    @hookspec
    def mail(self, mail: Mail) -> Opinion:
        """MAIL was given; `mail.envelope.sender` is known. Kind: decide."""

    @hookspec
    def rcpt(self, mail: Mail, rcpt: Recipient) -> Opinion:
        """RCPT was given and the client may relay to it. Kind: decide; the answer is for this recipient.

        `mail.envelope.recipients` are those before it, as given, that will share the message.

        Discard is for that recipient alone: the client hears 250, the next hop is not asked. Hold is for a transaction as a whole:
        the first recipient decides, and those for whom the hooks say otherwise hear 452 4.5.3, so that the client sends to them on
        their own.
        """

    @hookspec
    def rewrite_envelope(self, mail: Mail, rcpt: Recipient | None) -> Edits:
        """Change an envelope address before the next hop is asked. Kind: rewrite.

        Called with `rcpt=None` for the sender at MAIL (return SetSender) and for each recipient at RCPT
        (return ReplaceRecipient, AddRecipient for a copy, or SetSender if this recipient takes another sender: others
        that don't are then put off to a transaction of their own; so with SetRoute and RequireTls). A plugin is
        asked about what those before it have made of a recipient.
        """

    @hookspec
    def message(self, mail: Mail) -> Opinion:
        """The last byte has arrived; nothing has gone to the next hop. Kind: decide."""

    @hookspec
    def arrived(self, mail: Mail) -> None:
        """The last byte has arrived; the `message` hooks come next. Kind: prepare.

        For a plugin whose `message` waits for others (by `after`) and then has to ask somebody: what it will need can
        be asked for now, side by side with them. A plain function that starts a task and returns; a fault is logged
        and decides nothing.
        """

    @hookspec
    def before_forward(self, mail: Mail, route: str) -> Edits:
        """The message is about to go to the upstream called `route`; QUEUE is the queue. Kind: rewrite.

        Edits of each plugin are applied before the next is called, so a later one sees them. Signers come
        last.
        """

    @hookspec
    def after_forward(self, mail: Mail, outcomes: tuple[Outcome, ...]) -> None:
        """The fate of every recipient is known and the client has its answer. Kind: report.

        Called when the next hop has answered, and when a message hook has rejected; not for what is put off, which
        comes again. The route of an outcome is the upstream's name; where it is QUEUE, "done" means stored, and
        `after_attempt` tells the rest.
        """

    @hookspec
    def after_attempt(self, mail: Mail, outcomes: tuple[Outcome, ...], attempt: int) -> None:
        """The queue has tried to deliver a message, or has given it up, and has written that down. Kind: report.

        `attempt` is 1 for the first. Of each recipient there is an outcome at every attempt until it is done or failed, which is
        also who has expired, or is held as nobody may be told. The route of an outcome is the route's name. Of
        the findings, only `campaign` is left: the tenant and the campaign by which the queue has shared out its turns.
        """

    @hookspec
    def session_closed(self, client: Client, totals: SessionTotals) -> None:
        """The connection has ended. Kind: report."""

    @hookspec
    def read_token(self, token: str) -> Unsubscription | None:
        """Somebody shows a token on the page of `unsubscribe`. Kind: serve.

        Return what it says, if you know who has made it and it is good; None otherwise. The first answer counts, and
        without any the page is "not found".
        """

    @hookspec
    def unsubscribed(self, wish: Unsubscription) -> None:
        """Somebody has unsubscribed on the page of `unsubscribe`. Kind: serve.

        Return when what you keep of it is on disk. If one plugin raises, the answer is 503, and the reader (or the mail
        program) tries again: the same may come twice.
        """

    @hookspec
    def startup(self, app: "App") -> None:
        """A worker has started; `app` has the resolver, the clock and the hostname. Kind: life.

        Raising keeps the worker from starting (and a reload from taking place).
        """

    @hookspec
    def shutdown(self) -> None:
        """The worker ends; no message is in progress any more. Kind: life."""

    @hookspec
    def register_commands(self, cli: Any) -> None:
        """Add click commands to the `relayproxy` command line. Kind: life."""

    @hookspec
    def register_pages(self, admin: Any) -> None:
        """Add pages to the admin site. Kind: life."""
