"""From the bytes of a delivery to a CIM message, or to the reasons why it is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic_core import to_json

from worker import contract
from worker.cim.canonical import derived_id, event_id, keyed_event_id, write_canonical
from worker.cim.decode import DEFAULT_MAX_BYTES, DEFAULT_MAX_DEPTH, Decoded, Undecodable, decode
from worker.cim.encoding import unpack
from worker.cim.ids import MAX_ID_BYTES, has_control_character, is_too_long
from worker.cim.plain import is_plain
from worker.cim.problems import find_problems, text_at
from worker.cim.timestamps import moment
from worker.codes import Code, Problem

MAX_PROBLEMS = 20
_KEY = contract.IDEMPOTENCY_KEY


class Identity(NamedTuple):
    """Whose message it is and what it is about, as far as could be read; for letters, logs and the journal."""

    sender_id: str | None = None
    sender_name: str | None = None
    message_id: str | None = None
    conversation_id: str | None = None
    event_id: str | None = None


NOBODY = Identity()


class CimMessage(NamedTuple):
    """A valid CIM message: what the worker needs to know of it, and what travels on."""

    id: str
    """The publisher's id, or 24 hex digits derived from the canonical content when it gave none."""
    event_id: str
    """24 hex digits: who sent it, under which id, with which content; see `canonical`."""
    sender: dict[str, Any]
    sender_id: str
    sender_name: str | None
    conversation_id: str | None
    channel_session_id: str | None
    customer_id: str | None
    room_id: str | None
    body_type: str
    timestamp: int
    """When the publisher says it happened (else when it was received), in epoch milliseconds."""
    wire: dict[str, Any]
    """The message as sent, apart from the documented normalisations; the `data` of the event."""
    size: int
    """Bytes of its JSON as it was sent, unpacked."""
    json: bytes | None = None
    """The JSON of `wire`, when the message was sent just so."""

    @property
    def identity(self) -> Identity:
        """Whose message it is and what it is about."""
        return Identity(self.sender_id, self.sender_name, self.id, self.conversation_id, self.event_id)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A body that is no valid CIM message. Says why, and who sent it as far as that can be read."""

    problems: tuple[Problem, ...]
    """One to twenty: those of the bytes first, then those of the contract in its order."""
    identity: Identity = NOBODY

    @property
    def first(self) -> Problem:
        """The problem that names the rejection in headers, logs and metrics."""
        return self.problems[0]


def parse(
    body: bytes,
    *,
    received_at: int,
    max_bytes: int = DEFAULT_MAX_BYTES,
    max_depth: int = DEFAULT_MAX_DEPTH,
    content_encoding: str | None = None,
    idempotency_key: object = None,
) -> CimMessage | Rejected:
    """Return the CIM message in `body`, or why it is none. Raises nothing, whatever the bytes.

    `received_at` (epoch ms) stands in for a missing `header.timestamp`; `max_bytes` and `max_depth` bound the body,
    packed and unpacked. `content_encoding` is how it is packed: gzip, deflate, or not at all.
    `idempotency_key` is what the publisher's header of that name holds, whatever it is; null and blank count as absent.
    """
    if content_encoding:
        unpacked = unpack(body, content_encoding, max_bytes=max_bytes)
        if isinstance(unpacked, Problem):
            return Rejected((unpacked,))
        body = unpacked
    decoded = decode(body, max_bytes=max_bytes, max_depth=max_depth)
    if isinstance(decoded, Undecodable):
        return _reject_undecodable(decoded)
    if decoded.is_compact and idempotency_key is None and is_plain(body, decoded.document):
        return _accept_plain(decoded.document, body)
    problems = find_problems(decoded.document)
    if idempotency_key is not None:
        problems += _key_problems(idempotency_key)
    if problems:
        return _reject(tuple(problems), decoded.document)
    return _accept(decoded, len(body), received_at, str(idempotency_key or ""))


def _key_problems(key: object) -> list[Problem]:
    if type(key) is not str or has_control_character(key):
        return [Problem(Code.INVALID_ID, "", f"In the AMQP header {_KEY}: a text without control characters.")]
    if is_too_long(key):
        expected = f"In the AMQP header {_KEY}: at most {MAX_ID_BYTES} bytes of UTF-8."
        return [Problem(Code.ID_TOO_LONG, "", expected)]
    return []


def _accept_plain(document: dict[str, Any], body: bytes) -> CimMessage:
    """As `_accept`, for a message that stays as it is."""
    message_id, header = document["id"], document["header"]
    sender, customer = header["sender"], header.get("customer")
    sender_id = sender["id"]
    return CimMessage(
        message_id,
        event_id(sender_id, message_id, write_canonical(document)),
        sender,
        sender_id,
        sender.get("senderName") or None,
        header.get("conversationId") or None,
        header.get("channelSessionId") or None,
        (customer.get("_id") or None) if customer else None,
        header.get("roomId") or None,
        document["body"]["type"],
        header["timestamp"],
        document,
        len(body),
        body,
    )


def _accept(decoded: Decoded, size: int, received_at: int, key: str) -> CimMessage:
    document, content = decoded.document, decoded.content()
    message_id = document.get("id")
    if not message_id or not message_id.strip():
        message_id = derived_id(content)
        document = {"id": message_id, **document, "id": message_id}  # noqa: F601 - first for the place, last for the value
    header = document["header"]
    sender = header["sender"]
    sender_id = sender["id"]
    identity = keyed_event_id(sender_id, key) if key.strip() else event_id(sender_id, message_id, content)
    timestamp = _normalise_timestamp(header, received_at)
    _normalise_channel_data(header)
    return CimMessage(
        message_id,
        identity,
        sender,
        sender_id,
        sender.get("senderName") or None,
        _present(header.get("conversationId")),
        _present(header.get("channelSessionId")),
        _present((header.get("customer") or {}).get("_id")),
        _present(header.get("roomId")),
        document["body"]["type"],
        timestamp,
        document,
        size,
    )


def _present(text: str | None) -> str | None:
    return text if text and text.strip() else None


def _normalise_timestamp(header: dict[str, Any], received_at: int) -> int:
    timestamp = moment(header.get("timestamp"), received_at)
    header["timestamp"] = timestamp = received_at if timestamp is None else timestamp
    return timestamp


def _normalise_channel_data(header: dict[str, Any]) -> None:
    # Agent desks read the array and call string methods on the values without looking.
    channel_data = header.get("channelData")
    if channel_data is None:
        channel_data = header["channelData"] = {}
    attributes = channel_data.get("additionalAttributes")
    if attributes is None:
        channel_data["additionalAttributes"] = []
        return
    for attribute in attributes:
        value = attribute.get("value")
        if type(value) is not str:
            attribute["value"] = "" if value is None else to_json(value).decode()


def _reject_undecodable(undecodable: Undecodable) -> Rejected:
    remains = undecodable.remains
    if remains is None:
        return Rejected(undecodable.problems[:MAX_PROBLEMS])
    known = {problem.pointer for problem in undecodable.problems}
    further = [problem for problem in find_problems(remains) if problem.pointer not in known]
    return _reject((*undecodable.problems, *further), remains)


def _reject(problems: tuple[Problem, ...], document: dict[str, Any]) -> Rejected:
    return Rejected(
        problems[:MAX_PROBLEMS],
        Identity(
            sender_id=text_at(document, ("header", "sender", "id")),
            sender_name=text_at(document, ("header", "sender", "senderName")),
            message_id=text_at(document, ("id",)),
            conversation_id=text_at(document, ("header", "conversationId")),
        ),
    )
