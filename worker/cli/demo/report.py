"""Prints what the demo found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from worker.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from worker.cli.demo.tally import Found, Result


def print_report(result: Result, found: Found) -> None:
    """Print a sample event, a sample document and the table with its verdict."""
    if found.events:
        print_line("An event as a subscriber received it (properties, then body)")
        print_json(found.events[0].properties)
        print_json(json.loads(found.events[0].body))
    if found.sample_document:
        print_line("A document of ConversationActivities")
        print_json(found.sample_document)
    rows = [(line.name, line.expected, line.found, "ok" if line.matches else "WRONG") for line in result.lines]
    print_line()
    print_table(None, ("outcome", "expected", "found", ""), rows)
    print_line(f"sent = published + stored + duplicate + dead; settled in {found.seconds:.1f} s")
    for complaint in result.complaints:
        print_line(f"WRONG: {complaint}")
    if result.adds_up:
        print_line("Every message is accounted for.")


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
