"""A letter, its prediction and an action, as several commands print them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.output import print_json, print_line

if TYPE_CHECKING:
    from worker.dead_letters.letter import LetterRecord
    from worker.desk.audit import Action
    from worker.desk.plan import Forecast


def letter_document(letter: LetterRecord) -> dict[str, Any]:
    """Return what `--json` prints of a letter: everything but its payload."""
    document = letter.to_document()
    for name in ("_id", "body", "originalBody", "headers", "properties"):
        document.pop(name, None)
    return {"id": letter.id, **document, "bodyBytes": document["bodyBytes"] or None}


def forecast_document(forecast: Forecast) -> dict[str, Any]:
    """Return what `--json` prints of a prediction."""
    return {
        "prediction": forecast.prediction,
        "reason": forecast.reason,
        "detail": forecast.detail,
        "pointer": forecast.pointer,
        "afterNewer": forecast.after_newer,
        "conversationId": forecast.conversation_id,
    }


def forecast_sentence(forecast: Forecast) -> str:
    """Return a prediction in words."""
    from worker.desk.plan import Prediction

    words = {
        Prediction.PUBLISH: "would go to its live conversation, or to the store if nobody listens",
        Prediction.STORE: f"would be stored ({forecast.reason})",
        Prediction.DUPLICATE: "is in the store already: nothing would be lost by discarding it",
        Prediction.APPLY: "would be applied to the registry",
        Prediction.SAME: "would die again for the same reason",
        Prediction.NEW: f"would die of something else: {forecast.reason} at {forecast.pointer or 'the whole message'}",
        Prediction.NO_WAY_BACK: "cannot be replayed: it is not known where it came from, or its bytes are parked",
        Prediction.TOO_OFTEN: "was replayed too often (--force)",
    }
    newer = "; its conversation has newer activities" if forecast.after_newer else ""
    return words[forecast.prediction] + newer


def clock_time(at: int | None) -> str:
    """Return a time (epoch ms) as a person reads it; nothing for None."""
    from worker.desk.times import utc

    return "" if at is None else utc(at, timespec="seconds")


def print_action(action: Action, *, as_json: bool) -> None:
    """Print what an action has done. Raises `CommandError` when it was stopped before its end."""
    if as_json:
        print_json({**{name: value for name, value in action.document.items() if name != "_id"}, "id": action.id})
        return
    counts = ", ".join(f"{number} {what}" for what, number in action.counts.items() if number) or "nothing to do"
    print_line(f"{action.document['kind']} {action.id}: {counts}")
    if why := action.document.get("why"):
        raise CommandError(ExitCode.OK, f"{why}; the letters that are left are as they were")
