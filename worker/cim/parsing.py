"""From the bytes of a delivery to a CIM message, or to the reasons why it is none."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from worker import contract
from worker.cim.canonical import derived_id, event_id, keyed_event_id
from worker.cim.decode import DEFAULT_MAX_BYTES, DEFAULT_MAX_DEPTH, Decoded, Undecodable, decode
from worker.cim.encoding import unpack
from worker.cim.ids import MAX_ID_BYTES, has_control_character, is_too_long
from worker.cim.message import MAX_PROBLEMS, CimMessage, Identity, Rejected
from worker.cim.plain import read_plain
from worker.cim.problems import find_problems, text_at
from worker.cim.scan import scan
from worker.cim.timestamps import moment
from worker.codes import Code, Problem

_KEY = contract.IDEMPOTENCY_KEY


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
    scanned = scan(body, max_depth) if idempotency_key is None and len(body) <= max_bytes else None
    if scanned is not None and (plain := read_plain(body, scanned)) is not None:
        return plain
    if scanned is not None and scanned.document is not None:
        decoded: Decoded | Undecodable = Decoded(scanned.document, scanned.content)
    else:
        decoded = decode(body, max_bytes=max_bytes, max_depth=max_depth)
    if isinstance(decoded, Undecodable):
        return _reject_undecodable(decoded)
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
        sender_id,
        sender.get("senderName") or None,
        _present(header.get("conversationId")),
        _present(header.get("channelSessionId")),
        _present((header.get("customer") or {}).get("_id")),
        _present(header.get("roomId")),
        document["body"]["type"],
        timestamp,
        size,
        document,
        intent=header.get("intent"),
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
            body_type=text_at(document, ("body", "type")),
        ),
    )
