"""The catalogue of reasons for programs: every code with its meaning, an example and what to do. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from worker.cim.decode import DEFAULT_MAX_BYTES, DEFAULT_MAX_DEPTH
from worker.codes import Code, WarningCode
from worker.schemas.generate import VERSION

_SENDER: Final = {"id": "crm", "type": "APP"}
_PLAIN: Final = {"type": "PLAIN", "markdownText": "called back"}


@dataclass(frozen=True, slots=True)
class Body:
    """A delivery that is rejected with the code."""

    body: bytes
    content_encoding: str | None = None
    shown: str | None = None
    """What people see in place of a body that is too long."""

    @property
    def text(self) -> str:
        """Return what people see."""
        return self.shown or self.body.decode("utf-8", "backslashreplace")


def _message(header: object = None, body: object = _PLAIN) -> Body:
    whole = {"header": {"sender": _SENDER, "conversationId": "c-1"} if header is None else header, "body": body}
    return Body(orjson.dumps({key: value for key, value in whole.items() if value is not ...}))


def _header(**members: object) -> dict[str, object]:
    return {"sender": _SENDER, "conversationId": "c-1", **members}


EXAMPLES: Final[dict[Code, Body | str]] = {
    Code.MESSAGE_TOO_LARGE: Body(
        b" " * (DEFAULT_MAX_BYTES + 1), shown=f"{DEFAULT_MAX_BYTES + 1} bytes, where {DEFAULT_MAX_BYTES} are the limit"
    ),
    Code.UNSUPPORTED_ENCODING: Body(b"\x1b\x07", "br", shown="a body packed with Brotli, and content_encoding = br"),
    Code.INVALID_UTF8: Body(b'{"body": {"type": "PLAIN", "markdownText": "caf\xe9"}}'),
    Code.MALFORMED_JSON: Body(b"{'header': {}}"),
    Code.NOT_AN_OBJECT: Body(b'[{"header": {}, "body": {}}]'),
    Code.DUPLICATE_KEY: Body(b'{"header": {"conversationId": "c-1", "conversationId": "c-2"}}'),
    Code.NUMBER_NOT_FINITE: Body(b'{"body": {"type": "SCORE", "average": NaN}}'),
    Code.INTEGER_OUT_OF_RANGE: Body(b'{"body": {"type": "ORDER", "number": 12345678901234567890}}'),
    Code.NESTING_TOO_DEEP: Body(
        b'{"body": ' + b"[" * DEFAULT_MAX_DEPTH + b"]" * DEFAULT_MAX_DEPTH + b"}",
        shown=f'{{"body": [[[ … {DEFAULT_MAX_DEPTH} arrays … ]]]}}',
    ),
    Code.INVALID_UNICODE: Body(b'{"body": {"type": "PLAIN", "markdownText": "thank you \\ud83d"}}'),
    Code.MISSING_SENDER: _message({"conversationId": "c-1"}),
    Code.MISSING_SENDER_ID: _message(_header(sender={"id": "", "type": "APP"})),
    Code.MISSING_SENDER_TYPE: _message(_header(sender={"id": "crm"})),
    Code.MISSING_BODY: _message(body=...),
    Code.MISSING_BODY_TYPE: _message(body={"markdownText": "called back"}),
    Code.MISSING_ANCHOR: _message({"sender": _SENDER, "conversationId": "", "customer": None}),
    Code.MISSING_FIELD: _message(body={"type": "URL", "markdownText": "the recording"}),
    Code.WRONG_TYPE: _message(_header(customer="65f0c0ffee00000000001234")),
    Code.INVALID_VALUE: _message(body={"type": "DELIVERYNOTIFICATION", "messageId": "a-1", "status": "delivered"}),
    Code.INVALID_TIMESTAMP: _message(_header(timestamp="9 October 2025")),
    Code.ID_TOO_LONG: Body(
        orjson.dumps({"header": _header(conversationId="c" * 243), "body": _PLAIN}),
        shown="a conversationId of 243 letters",
    ),
    Code.INVALID_ID: _message(_header(conversationId="c-1\n")),
    Code.SENDER_NOT_ALLOWED: "CIM_SENDER_USERS says crm=crm-user, and the message came without the property user_id.",
    Code.STORE_REJECTED: "The store's own validation of ConversationActivities refuses the document (error 121).",
    Code.DOCUMENT_TOO_LARGE: "A document of 17 MB, where the store takes 16 MB.",
    Code.NOT_ENCODABLE: 'A field of the body is named "a\\u0000b".',
    Code.UNREADABLE_RECORD: "Somebody wrote `state: 5` into the conversation's document by hand.",
    Code.EXCHANGE_TAKEN: "conversation.c-1 was declared as a topic exchange before the conversation began.",
    Code.PUBLISH_REJECTED: "A queue of the conversation is full and has overflow=reject-publish.",
    Code.STORE_WRITE_UNCERTAIN: "Two of three members of the replica set are away; the third took the write.",
    Code.UNEXPECTED_ERROR: "A mistake in the worker that a certain message brings out.",
    Code.STORE_UNAVAILABLE: "The primary of the replica set is being elected.",
    Code.STORE_ACCESS_REFUSED: "The user in CIM_MONGODB_URI may only read.",
    Code.BROKER_UNAVAILABLE: "The broker's machine is restarted.",
    Code.BROKER_BLOCKED: "The broker has less free disk than its disk_free_limit.",
    Code.BROKER_ACCESS_REFUSED: "The user in CIM_RABBITMQ_URL may not write to cim.conversations.",
    Code.TOPOLOGY_MISMATCH: "cim.ingress was declared as a classic queue before `cim-worker topology apply`.",
    Code.DELIVERY_LIMIT: "Every worker that took the message was killed for its memory before it could acknowledge it.",
    Code.BROKER_EXPIRED: "The publisher set the property expiration to 60000, and no worker ran for a minute.",
    Code.BROKER_MAXLEN: "A policy gives cim.ingress max-length 1000 and overflow drop-head.",
    Code.BROKER_REJECTED: "Somebody's script took messages from cim.ingress and rejected them without requeue.",
    Code.FOREIGN_LETTER: "An application sent its own message to the exchange cim.dead-letters.",
}
"""What leads to each code: a delivery, or in words a situation."""


def catalogue() -> dict[str, Any]:
    """Return every reason and every warning."""
    return {
        "version": VERSION,
        "description": "Codes are never given another meaning; later versions may add some.",
        "reasons": [_reason(code) for code in Code],
        "warnings": [{"code": warning.value, "meaning": warning.meaning} for warning in WarningCode],
    }


def _reason(code: Code) -> dict[str, Any]:
    spec, example = code.spec, EXAMPLES[code]
    return {
        "code": code.value,
        "class": spec.failure_class.value,
        "stage": spec.stage.value,
        "then": spec.failure_class.disposition.value,
        "meaning": spec.meaning,
        "example": {"message": example.text} if isinstance(example, Body) else {"situation": example},
        "fix": spec.fix,
    }
