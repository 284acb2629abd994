"""Where a delivery comes from: who published it, whether it is one of our copies, and which headers only we may set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker import contract

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from worker.ports import Delivery, Properties

_MAX_ATTEMPT = 1_000_000
_MAX_TIME = 2**53
RESERVED = (
    *contract.LETTER_HEADERS,
    contract.USER_ID,
    contract.REFUSED,
    contract.SUSPECTED_AT,
    contract.STORED_BECAUSE,
    contract.REPLAY_OF,
    contract.REPLAY_JOB,
    contract.REPLY_TO,
)
"""What only we may set. Not `cim-receipts` and `cim-idempotency-key`: those are a publisher's."""
_FOLLOWED = frozenset((contract.REPLY_TO, contract.REPLAY_OF))
_MAX_ID_CHARACTERS = 64


def attempt_of(delivery: Delivery) -> int:
    """Return which try of the message this delivery is, from 1. Nonsense in the header counts as the first."""
    return header_int(delivery, contract.ATTEMPT, lowest=1, highest=_MAX_ATTEMPT) or 1


def refused_before(delivery: Delivery) -> int:
    """Return how often a subscriber's queue refused the event of this message."""
    return header_int(delivery, contract.REFUSED, lowest=1, highest=_MAX_ATTEMPT) or 0


def note_refusal(delivery: Delivery) -> None:
    """Count one more refusal of its event by a subscriber's queue; every copy that comes back carries the count."""
    delivery.properties.headers[contract.REFUSED] = refused_before(delivery) + 1


def suspected_at(delivery: Delivery) -> int | None:
    """Return when (epoch ms) the message went to the waiting room under suspicion, if it did."""
    return header_int(delivery, contract.SUSPECTED_AT, lowest=0, highest=_MAX_TIME)


def stored_because(delivery: Delivery) -> str | None:
    """Return why the message was to be stored when it went to the waiting room, if that was noted."""
    because = delivery.properties.headers.get(contract.STORED_BECAUSE)
    return because if isinstance(because, str) else None


def strip_reserved_headers(delivery: Delivery, trusted: Collection[str | None]) -> None:
    """Drop the headers that only our copies may have, unless the broker vouches that a *trusted* user published it."""
    properties = delivery.properties
    headers = properties.headers
    if headers and properties.user_id not in trusted:
        for name in RESERVED:
            headers.pop(name, None)


def believed_headers(delivery: Delivery, trusted: Collection[str | None]) -> Mapping[str, Any]:
    """Return the headers that can be believed: ours only if the broker vouches that a *trusted* user published them."""
    headers = delivery.properties.headers
    if delivery.properties.user_id in trusted:
        return headers
    return {name: value for name, value in headers.items() if name not in RESERVED}


def published_by(delivery: Delivery) -> str | None:
    """Return who published the message: the broker user, if the broker checked it, or whom a trusted user names.

    Copies, replays and what the gateway publishes carry the name in a header: ask for a delivery whose reserved headers
    are stripped where they are not to be believed.
    """
    properties = delivery.properties
    if properties.headers:
        user = properties.headers.get(contract.USER_ID)
        if is_copy(delivery) or contract.REPLAY_OF in properties.headers:
            return user if isinstance(user, str) else None
        if isinstance(user, str) and properties.user_id is not None:
            return user  # the gateway's, whose own user the broker has checked
    return properties.user_id


def is_followed(properties: Properties) -> bool:
    """Tell whether somebody wants to know what becomes of a message: whoever published it, or who replayed it.

    Ask only after `strip_reserved_headers`.
    """
    if properties.reply_to:
        return True
    return bool(properties.headers) and not _FOLLOWED.isdisjoint(properties.headers)


def reply_to(properties: Properties) -> str | None:
    """Return where its publisher wants the receipt: a copy says it in our own header, for no copy has a `reply_to`.

    Ask only after `strip_reserved_headers`.
    """
    kept = properties.headers.get(contract.REPLY_TO) if properties.headers else None
    return kept if isinstance(kept, str) else properties.reply_to or None


def replay_of(properties: Properties) -> str | None:
    """Return the id of the letter that a message is a replay of. Ask only after `strip_reserved_headers`."""
    return _id(properties.headers.get(contract.REPLAY_OF))


def replay_job(properties: Properties) -> str | None:
    """Return the id of the desk's job that replayed a message. Ask only after `strip_reserved_headers`."""
    return _id(properties.headers.get(contract.REPLAY_JOB))


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= _MAX_ID_CHARACTERS else None


def is_copy(delivery: Delivery) -> bool:
    """Tell whether a worker made this. A publisher can pretend so; only diagnostics believe it."""
    return isinstance(delivery.properties.headers.get(contract.ORIGIN_QUEUE), str)


def header_int(delivery: Delivery, name: str, *, lowest: int, highest: int) -> int | None:
    """Return an integer header between *lowest* and *highest*, or None: anything else there is nonsense."""
    value = delivery.properties.headers.get(name)
    return value if type(value) is int and lowest <= value <= highest else None
