"""RCPT: may this client send there, what do the hooks say, which way does it go, and what does the next hop answer.

Takes all that a pipelining client has sent at once, as the next hop is to hear it at once too. Must not know the
state of a session beyond the open transaction.
"""

from collections.abc import Sequence
from typing import NamedTuple

from relayproxy.core.draft import NOWHERE, Draft
from relayproxy.core.policy import route_for
from relayproxy.core.ports import Transaction
from relayproxy.core.refusing import refused
from relayproxy.core.services import ListenerServices, Services
from relayproxy.model.edits import apply_to_envelope
from relayproxy.model.envelope import Recipient
from relayproxy.model.mail import Mail
from relayproxy.model.reply import Reply
from relayproxy.model.verdict import Action
from relayproxy.smtp.commands import CommandError, parse_rcpt

_OK = Reply(250, "2.1.5", "Ok")
_OK_STATUS = "2.1.5"


class _Asked(NamedTuple):
    """A recipient that we have nothing against: as given, and as it goes on (as nobody, if it is discarded)."""

    given: Recipient
    targets: Sequence[Recipient]


def no_such_route(services: Services, mail: Mail) -> Reply:
    """Return the 451 of a plugin that names a route that isn't there, which the log is told of."""
    services.log.error("unknown_route", id=mail.id, route=mail.envelope.route)
    return Reply(451, "4.3.5", "No such way on, try again later")


async def answers(at: ListenerServices, draft: Draft, args: Sequence[str]) -> list[Reply]:
    """Return a reply to each RCPT of a batch, in order; those that are welcome are in the draft."""
    pipeline = at.services.pipeline
    hooked = pipeline.asks_rcpt or pipeline.rewrites_envelope
    # One recipient that no hook has to do with is the usual case, and is spared the bookkeeping of a batch.
    screens = len(args) == 1 and not pipeline.rewrites_envelope
    replies: list[Reply | None] = []
    asked: list[_Asked] = []
    for arg in args:
        recipient = _permitted(at, draft, arg, len(asked))
        if isinstance(recipient, Reply):
            replies.append(recipient)
            continue
        idle = screens and hooked and _is_idle(at, draft, recipient)
        if screens and (not hooked or (idle and draft.shares(None, 0))):
            return [await _alone(at, draft, recipient)]
        opinion = (
            await _considered(at, draft, recipient, asked, screened=screens and not idle)
            if hooked
            else _misrouted(at, draft, recipient, len(asked)) or _Asked(recipient, (recipient,))
        )
        if isinstance(opinion, Reply):
            replies.append(opinion)
        else:
            asked.append(opinion)
            replies.append(None)
    heard = iter(await _ask(at, draft, asked) if asked else ())
    return [reply or next(heard) for reply in replies]


def _is_idle(at: ListenerServices, draft: Draft, recipient: Recipient) -> bool:
    """Whether no `rcpt` hook has to do with a lone recipient."""
    _show(draft, ())
    return at.services.pipeline.is_idle("rcpt", draft.mail, draft.scope, rcpt=recipient)


async def _alone(at: ListenerServices, draft: Draft, recipient: Recipient) -> Reply:
    """One recipient, and no hook that has to do with it."""
    refusal = _misrouted(at, draft, recipient, 0)
    if refusal is not None:
        return refusal
    (answer,) = await _transaction(at, draft).recipients((recipient,))
    reply = answer if answer.status else _with_status(answer)
    if reply.ok:
        draft.given.append(recipient)
        draft.places.append(len(draft.targets))
        draft.targets.append(recipient)
    else:
        refused(at.services, draft.mail, recipient, reply)
    return reply


def _with_status(reply: Reply) -> Reply:
    """A next hop's answer with the enhanced code that it didn't give."""
    return Reply(reply.code, _OK_STATUS if reply.ok else f"{reply.code // 100}.0.0", reply.text)


def _transaction(at: ListenerServices, draft: Draft) -> Transaction:
    """The transaction with the next hop, begun with the first recipient that goes on."""
    transaction = draft.transaction
    if transaction is None:
        assert draft.route is not None
        hop = at.services.hops[draft.route.upstream]
        transaction = draft.transaction = hop.begin(draft.mail, draft.declared)
    return transaction


async def _considered(
    at: ListenerServices, draft: Draft, recipient: Recipient, asked: Sequence[_Asked], *, screened: bool
) -> Reply | _Asked:
    """What the hooks say of one recipient: a refusal, or how it goes on.

    `asked` are those of the same batch that the next hop hasn't answered yet; `screened`: `_is_idle` said no just now.
    """
    services, mail = at.services, draft.mail
    pipeline = services.pipeline
    waiting = sum(1 for one in asked if one.targets)
    targets: Sequence[Recipient] = (recipient,)
    _show(draft, asked)
    if pipeline.asks_rcpt:
        verdict = await pipeline.decide("rcpt", mail, draft.scope, screened=screened, rcpt=recipient)
        refusal = verdict.reply if verdict is not None else None
        if refusal is None and verdict is not None and verdict.action is Action.DISCARD:
            draft.discarded = draft.discarded or verdict
            services.log.info(
                "recipient_discarded",
                id=mail.id,
                ip=mail.client.ip,
                **{"from": str(mail.envelope.sender), "to": str(recipient.address)},
                reason=verdict.reason,
            )
            return _Asked(recipient, ())
        if refusal is None and not draft.shares(verdict, waiting):
            refusal = Reply(
                452, "4.5.3", "This recipient is treated otherwise: send it in another transaction"
            )
        if refusal is not None:
            refused(services, mail, recipient, refusal, verdict)
            return refusal
    if pipeline.rewrites_envelope:
        edits, verdict = await pipeline.rewritten(mail, recipient, draft.scope)
        refusal = verdict.reply if verdict is not None else None
        if refusal is not None:
            refused(services, mail, recipient, refusal, verdict)
            return refusal
        one = draft.base.to((recipient,))
        if edits:
            one = apply_to_envelope(one, edits)
            targets = one.recipients
            if not targets:
                return Reply(550, "5.1.1", "No such recipient")
        envelope = mail.envelope
        one = one.to(envelope.recipients)
        if one != envelope:
            if draft.transaction is not None or waiting:
                other = "sender" if one.sender != envelope.sender else "way on"
                return Reply(
                    452, "4.5.3", f"This recipient takes another {other}: send it in another transaction"
                )
            mail.envelope = one
    return _misrouted(at, draft, targets[0], waiting) or _Asked(recipient, targets)


def _show(draft: Draft, asked: Sequence[_Asked]) -> None:
    """Let the hooks see who shares the message so far: whom the next hop has refused does not."""
    if draft.given or asked or draft.mail.envelope.recipients:
        draft.mail.envelope = draft.mail.envelope.to((*draft.given, *(one.given for one in asked)))


def _permitted(at: ListenerServices, draft: Draft, arg: str, waiting: int) -> Reply | Recipient:
    """Whether this client may send there at all: the recipient as given, or the refusal."""
    mail = draft.mail
    try:
        recipient = parse_rcpt(arg, draft.offered, smtputf8=mail.envelope.smtputf8)
    except CommandError as error:
        return error.reply
    if len(draft.given) + waiting >= at.policy.limits.recipients:
        return Reply(452, "4.5.3", "Too many recipients")
    if (
        not mail.client.trusted
        and recipient.address.domain
        and not at.services.relay.serves(recipient.address)
    ):
        reply = Reply(550, "5.7.1", "Relaying denied")
        refused(at.services, mail, recipient, reply)
        return reply
    return recipient


def _misrouted(at: ListenerServices, draft: Draft, target: Recipient, waiting: int) -> Reply | None:
    """Give the transaction its route, or return why this recipient can't go along."""
    services, mail = at.services, draft.mail
    route = route_for(services.routes, mail.client, mail.envelope, target.address)
    if route is None and mail.envelope.route:
        return no_such_route(services, mail)
    if route is None:
        return Reply(550, "5.1.2", "No route for this recipient")
    if draft.route is None:
        draft.route = route
    elif route.upstream != draft.route.upstream:
        return Reply(452, "4.5.3", "This recipient takes another route: send it in another transaction")
    if (
        (draft.targets or waiting)
        and at.policy.protocol != "lmtp"
        and services.hops[route.upstream].per_recipient
    ):
        # The next hop answers for each recipient; one reply to our client can't say two things.
        return Reply(452, "4.5.3", "One recipient at a time here: send it in another transaction")
    return None


async def _ask(at: ListenerServices, draft: Draft, asked: Sequence[_Asked]) -> list[Reply]:
    """Let the next hop speak for itself about each recipient that goes on; a reply for each that was given."""
    firsts = [one.targets[0] for one in asked if one.targets]
    coming = iter(await _transaction(at, draft).recipients(firsts) if firsts else ())
    replies: list[Reply] = []
    copies: list[Recipient] = []
    for recipient, targets in asked:
        reply = next(coming) if targets else _OK
        if not reply.status:
            reply = _with_status(reply)
        if not reply.ok:
            refused(at.services, draft.mail, recipient, reply)
        else:
            draft.given.append(recipient)
            draft.places.append(len(draft.targets) if targets else NOWHERE)
            draft.targets += targets[:1]
            copies += targets[1:]
        replies.append(reply)
    if copies:
        await _copy(at.services, draft, _transaction(at, draft), copies)
    return replies


async def _copy(
    services: Services, draft: Draft, transaction: Transaction, copies: Sequence[Recipient]
) -> None:
    """Offer the further recipients that a plugin added; one that is refused is logged, the mail goes on."""
    known = {target.address.key for target in draft.targets}
    fresh = list({copy.address.key: copy for copy in copies if copy.address.key not in known}.values())
    for copy, reply in zip(fresh, await transaction.recipients(fresh) if fresh else (), strict=True):
        if reply.ok:
            draft.targets.append(copy)
        else:
            services.log.warning("copy_refused", id=draft.mail.id, to=str(copy.address), reply=str(reply))
