"""Outcomes, reasons and codes in words, for whoever asks what became of a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from worker.codes import Code
from worker.failure import StoreUnavailable
from worker.outcome import Outcome
from worker.pipeline.ports import StoredBecause

if TYPE_CHECKING:
    from worker.desk.journal import Entry
    from worker.failure import AdapterError

OUTCOMES: Final = {
    Outcome.PUBLISHED: "published to the exchange of its conversation",
    Outcome.STORED: "stored",
    Outcome.DUPLICATE: "arrived again; the store holds it already, nothing was changed",
    Outcome.WAITING: "put into the waiting room; no attempt was spent",
    Outcome.RETRY: "failed, to be tried again",
    Outcome.DEAD: "given up: it became a dead letter",
    Outcome.HANDED_BACK: "handed back to the broker",
}
REASONS: Final = {
    StoredBecause.STAND_ALONE: "it names a customer only",
    StoredBecause.CLOSED: "its conversation was closed",
    StoredBecause.UNKNOWN_CONVERSATION: "the registry did not know its conversation, and nobody listened to it",
    StoredBecause.UNKNOWN_SESSION: "the registry did not know its channel session",
    StoredBecause.NOBODY_LISTENS: "its conversation was active, but no queue was bound to the exchange",
    StoredBecause.REFUSED_BY_SUBSCRIBER: "a subscriber's queue refused it, twice",
    StoredBecause.EVENT_TOO_LARGE: "its event is larger than the broker takes",
}


def outcome_in_words(entry: Entry) -> str:
    """Return what *entry* says in one sentence; words that a newer worker may have written stand as they are."""
    words = OUTCOMES[Outcome(entry.outcome)] if entry.outcome in set(Outcome) else entry.outcome
    if entry.reason is not None:
        words += f" ({entry.reason}: {reason_in_words(entry.reason)})"
    if entry.code is not None:
        words += f" ({entry.code}: {code_in_words(entry.code).removesuffix('.')})"
    return words


def reason_in_words(reason: str) -> str:
    """Return why something was stored."""
    return REASONS[StoredBecause(reason)] if reason in set(StoredBecause) else "a reason this version does not know"


def code_in_words(code: str) -> str:
    """Return the sentence of a reason code."""
    return Code(code).spec.meaning if code in set(Code) else "a code this version does not know"


def why_not(error: AdapterError) -> str:
    """Return why something could not be asked, for whoever only looks: what happens to work meanwhile is left out."""
    if not isinstance(error, StoreUnavailable):
        return str(error)
    _, _, cause = str(error).partition("(")
    does = "answers with an error" if cause.startswith("OperationFailure") else "does not answer"
    return f"it {does} ({cause}" if cause else f"it {does}"
