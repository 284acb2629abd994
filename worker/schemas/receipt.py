"""The schema of a receipt: what a publisher is told that asked with `reply_to`. No I/O."""

# ruff: noqa: N815 - fields carry the wire's own names.

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from worker.outcome import Outcome
from worker.schemas.generate import (
    OWN_ID,
    Document,
    EpochMs,
    EventId,
    Reason,
    ReasonCode,
    definitions,
    document,
    one_of,
)
from worker.schemas.samples import receipts

if TYPE_CHECKING:
    from worker.cim.rules import JsonSchema

DELAYED: Final = "delayed"
_OUTCOMES: Final = (Outcome.PUBLISHED.value, Outcome.STORED.value, Outcome.DUPLICATE.value, Outcome.DEAD.value, DELAYED)
_DESCRIPTION: Final = (
    "What became of one message, for the publisher that asked with the AMQP property `reply_to`: to direct reply-to, "
    "or to a queue whose name matches CIM_RECEIPT_QUEUES. Has the property `correlation_id` of the message; can come "
    "twice."
)


class FoundProblem(Document):
    """One thing that is wrong with a message. Holds nothing of its content."""

    code: ReasonCode
    pointer: str = Field(description="JSON pointer (RFC 6901) to the field; empty for the whole message.")
    expected: str = Field(description="What was expected there, in one sentence.")


class OutcomeReceipt(Document):
    """What became of one message."""

    outcome: Annotated[str, one_of(_OUTCOMES, "The final one; `delayed` only where `cim-receipts: all` asks for it.")]
    eventId: EventId | None
    messageId: str | None = Field(description=OWN_ID)
    conversationId: str | None
    reason: Reason | None
    code: ReasonCode | None
    problems: list[FoundProblem] = Field(description="Everything that is wrong with it, at most twenty.")
    at: EpochMs


def receipt_schema() -> JsonSchema:
    """Return the schema document."""
    parts = definitions(OutcomeReceipt)
    whole = parts.pop("OutcomeReceipt")
    return document("receipt", "Receipt", _DESCRIPTION, whole, parts, receipts())
