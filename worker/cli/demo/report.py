"""Prints what the demo found: what came, what died and why, and what to try next."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from worker.cli.output import print_line, print_table
from worker.codes import Code

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from worker.cli.demo.activities import Sample
    from worker.cli.demo.tally import Found, Result

_SURVIVORS: Final = ("published", "stored", "duplicate")
_HELLO: Final = {
    "id": "try-1",
    "header": {"sender": {"id": "me", "type": "APP", "senderName": "Me"}, "conversationId": "demo-live-1"},
    "body": {"type": "PLAIN", "markdownText": "hello"},
}
_BROKEN: Final = {"id": "try-2", "header": {"sender": {"id": "me"}}, "body": {"type": "PLAIN"}}


def print_report(samples: Sequence[Sample], result: Result, found: Found) -> None:
    """Print the guided minute."""
    _heading(f"What came: {len(samples)} activities of third-party apps, and where each had to go")
    print_table(None, ("activity", "live conversation", "store", "already there"), _arrivals(samples))
    if found.events:
        _heading(f"One of them, as the subscriber of {found.events[0].conversation_id} received it")
        print_table(None, ("field", "value"), _event_rows(json.loads(found.events[0].body)))
    if found.sample_document:
        _heading("One that no live conversation took, as it is in the collection ConversationActivities")
        print_table(None, ("field", "value"), _document_rows(found.sample_document))
    _heading("What died, and why: each is in the dead letters with its reasons and its original bytes")
    print_table(None, ("code", "letters", "why"), _deaths(found))
    _heading(f"The account: sent = published + stored + duplicate + dead, in {found.seconds:.1f} s")
    shown = [line for line in result.lines if not (line.matches and line.name.startswith("dead: "))]
    rows = [(line.name, line.expected, line.found, "ok" if line.matches else "WRONG") for line in shown]
    print_table(None, ("outcome", "expected", "found", ""), rows)
    for complaint in result.complaints:
        print_line(f"WRONG: {complaint}")
    if result.adds_up:
        print_line("Every message is accounted for.")


def print_next_steps() -> None:
    """Print three commands that need nothing that has just been removed."""
    _heading("Try next")
    print_line("  cim-worker demo --keep             the same, left running to play with (make demo ARGS=--keep)")
    print_line(f"  echo {shlex.quote(json.dumps(_BROKEN))} | cim-worker validate -")
    print_line("                                     what is wrong with this message?")
    print_line("  cim-worker settings                everything that can be configured")


def next_steps_while_it_runs(variables: Path, process_id: int) -> list[str]:
    """Return the lines that say what to do in another shell, and how to end it."""
    return [
        "",
        "The demo is left running. What arrives is shown here. In another shell:",
        f"  . {shlex.quote(str(variables))}",
        "  cim-worker conversations list",
        f"  echo {shlex.quote(json.dumps(_HELLO))} | cim-worker publish -",
        f"  echo {shlex.quote(json.dumps(_BROKEN))} | cim-worker publish --no-check -",
        "  cim-worker dead-letters",
        "The first lists the conversations; the second message reaches a subscriber, the third dies with its reasons,",
        "which the last command shows: deploy/dead-letters.md goes on from there.",
        f"Stop it with Ctrl-C here, or from another shell with: kill {process_id}",
    ]


def report_document(result: Result, found: Found) -> dict[str, Any]:
    """Return what `--json` prints."""
    event = found.events[0] if found.events else None
    return {
        "adds_up": result.adds_up,
        "complaints": result.complaints,
        "seconds": round(found.seconds, 3),
        "lines": [{"outcome": line.name, "expected": line.expected, "found": line.found} for line in result.lines],
        "sample_event": event and {"properties": event.properties, "body": json.loads(event.body)},
        "sample_document": found.sample_document,
    }


def _heading(text: str) -> None:
    print_line()
    print_line(text)


def _arrivals(samples: Sequence[Sample]) -> list[tuple[object, ...]]:
    counts = Counter((sample.kind, sample.outcome) for sample in samples)
    kinds = sorted({sample.kind for sample in samples if sample.outcome in _SURVIVORS})
    rows: list[tuple[object, ...]] = [
        (kind, *(counts[kind, outcome] or None for outcome in _SURVIVORS)) for kind in kinds
    ]
    dead = sum(sample.outcome == "dead" for sample in samples)
    return [*rows, (f"invalid or in conflict: {dead}", None, None, None)]


def _deaths(found: Found) -> list[tuple[object, ...]]:
    counts = Counter(code for code, _ in found.letters)
    meanings = {code.value: code.spec.meaning for code in Code}
    return [(code, count, meanings.get(code)) for code, count in counts.most_common()]


def _event_rows(event: dict[str, Any]) -> list[tuple[object, ...]]:
    header, body = event["data"]["header"], event["data"]["body"]
    return [
        ("event", event["name"]),
        ("event id", event["id"]),
        ("from", header["sender"].get("senderName") or header["sender"]["id"]),
        ("activity", body["type"]),
        ("sent at", _time(header["timestamp"])),
        ("customer", header.get("customer", {}).get("_id")),
    ]


def _document_rows(document: dict[str, Any]) -> list[tuple[object, ...]]:
    message = document["activity"]["data"]
    return [
        ("_id", document["_id"]),
        ("from", message["header"]["sender"].get("senderName") or message["header"]["sender"]["id"]),
        ("activity", message["body"]["type"]),
        *(
            (name, document[name])
            for name in ("conversationId", "channelSessionId", "customerId")
            if document.get(name)
        ),
    ]


def _time(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="milliseconds")
