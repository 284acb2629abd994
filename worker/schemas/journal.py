"""The schema of the journal: one message of the stream `cim.outcomes`. No I/O."""

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
from worker.schemas.samples import journal

if TYPE_CHECKING:
    from worker.cim.rules import JsonSchema

_OUTCOMES: Final = [one.value for one in Outcome if one is not Outcome.HANDED_BACK]
_DESCRIPTION: Final = (
    "One message of the stream, unpacked (`content_encoding` gzip): the outcomes of one batch of one worker process. "
    "An outcome stands there twice when its acknowledgement was lost."
)


class JournalEntry(Document):
    """What became of one delivery."""

    eventId: EventId | None
    messageId: str | None = Field(description=OWN_ID)
    senderId: str | None
    conversationId: str | None
    outcome: Annotated[str, one_of(_OUTCOMES, "How this delivery ended; `retry` and `waiting` come again.")]
    reason: Reason | None
    code: ReasonCode | None
    letterId: str | None = Field(description="The dead letter it became.")
    replayOf: str | None = Field(description="The dead letter it is a replay of.")
    receivedAt: EpochMs
    at: EpochMs
    replayJob: str | None = Field(default=None, description="The job that replayed it; of replays alone.")
    amqpMessageId: str | None = Field(
        default=None, description="The AMQP message id of the delivery, where it is another than `messageId`."
    )


class JournalGap(Document):
    """Outcomes that may be missing, because the journal could not be written."""

    first: EpochMs = Field(alias="from")
    to: EpochMs
    count: int


class JournalMessage(Document):
    """The outcomes of one batch."""

    worker: str = Field(description="The process that wrote it.")
    at: EpochMs
    outcomes: list[JournalEntry]
    gap: JournalGap | None = Field(default=None, description="Outcomes that may be missing before this message.")


def journal_schema() -> JsonSchema:
    """Return the schema document."""
    parts = definitions(JournalMessage)
    whole = parts.pop("JournalMessage")
    return document("journal", "Message of the journal", _DESCRIPTION, whole, parts, [journal()])
