"""How `cim-worker validate` shows what it found: as text with a caret, as rows, as JSON, or for GitHub's build log."""

from __future__ import annotations

import re
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from worker.cli.excerpt import excerpt
from worker.cli.output import print_json_with, print_line, terminal_width
from worker.codes import Code, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.cim.warnings import CimWarning
    from worker.cli.messages import FileMessage
    from worker.cli.routes import Route
    from worker.cli.validate import Judged

_WHOLE = "(whole message)"
_PLACE_IN_MESSAGE = re.compile(r"; at line \d+, column \d+")
_NAMED = re.compile(r"'([^']+)'")
_QUESTION = "Did you mean"
_CLOSE = 0.7


class Format(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    TABLE = "table"
    JSON = "json"
    GITHUB = "github"


class Finding(NamedTuple):
    """A problem or a warning, and where in the file it is."""

    result: str
    """`rejected` or `warning`."""
    problem: Problem | CimWarning
    found: str
    line: int
    """Of the file, from 1."""
    column: int
    """In characters, from 1."""
    drawn: Sequence[str] = ()
    """The line with a caret, if asked for."""

    did_you_mean: str | None = None
    """The known name or value that comes closest."""

    @property
    def expected(self) -> str:
        """What was expected there; the place in the message is left out, where the place in the file is known."""
        return _PLACE_IN_MESSAGE.sub("", self.problem.expected)


def findings(judged: Judged, *, width: int = 0) -> Iterator[Finding]:
    """Yield the problems of a message, then its warnings; with the line drawn if *width* is given."""
    from worker.cim.locate import MessageText

    if not judged.problems and not judged.warnings:
        return
    message, text = judged.message, MessageText(judged.message.body)
    for result, found in (("rejected", judged.problems), ("warning", judged.warnings)):
        for one in found:
            place = text.place_of(one.code, one.pointer)
            drawn = excerpt(text.text, place, first_line=message.line, width=width) if width else ()
            column = place.column + (message.column - 1 if place.line == 1 else 0)
            line, meant = message.line + place.line - 1, _meant(one, text.text[place.start : place.end])
            yield Finding(result, one, place.found, line, column, drawn, meant)


def print_text(judged: Sequence[Judged]) -> None:
    """Print each finding with its place as FILE:LINE:COLUMN, which terminals make a link of, and a caret."""
    width = min(terminal_width(), 120) - 2
    for one in judged:
        found = list(findings(one, width=width))
        if not found:
            print_line(f"{_name(one.message)}: valid")
        for finding in found:
            _print_finding(one.message, finding)


def print_github(judged: Sequence[Judged], *, strict: bool) -> None:
    """Print each finding as a workflow command, which GitHub shows beside the line of the file."""
    for one in judged:
        for finding in findings(one):
            kind = "error" if strict or finding.result == "rejected" else "warning"
            file = _escaped(one.message.file).replace(":", "%3A").replace(",", "%2C")
            place = f"file={file},line={finding.line},col={finding.column},title={finding.problem.code}"
            print_line(f"::{kind} {place}::{_escaped(_sentence(finding))}")


def rows(judged: Judged) -> list[tuple[object, ...]]:
    """Return a row for each finding, or the one row of a message that has none."""
    file = (judged.message.file, judged.message.index)
    found: list[tuple[object, ...]] = [
        (
            *(*file, one.result, one.problem.code, one.problem.pointer or _WHOLE),
            *(one.expected, one.found, one.line, one.column),
        )
        for one in findings(judged)
    ]
    return found or [(*file, "valid", *[None] * 4, judged.message.line, judged.message.column)]


def print_document(judged: Sequence[Judged], routes: Mapping[int, Route], *, strict: bool) -> None:
    """Print `--json`, a message at a time. Other teams' builds read it: members are added, never changed or removed."""
    bad = sum(one.is_rejected(strict=strict) for one in judged)
    counts = {"valid": len(judged) - bad, "rejected": bad, "with_warnings": sum(bool(one.warnings) for one in judged)}
    documents = (message_document(one, routes.get(place), strict=strict) for place, one in enumerate(judged))
    print_json_with(counts, "messages", documents)


def message_document(judged: Judged, route: Route | None = None, *, strict: bool = False) -> dict[str, Any]:
    """Return what `--json` says of one message."""
    identity, found = judged.identity, list(findings(judged))
    document = {
        "file": judged.message.file,
        "index": judged.message.index,
        "line": judged.message.line,
        "result": "rejected" if judged.is_rejected(strict=strict) else "valid",
        "message_id": identity.message_id,
        "sender_id": identity.sender_id,
        "event_id": identity.event_id,
        "problems": [
            {**_finding_document(one), "stage": one.problem.code.spec.stage}
            for one in found
            if isinstance(one.problem, Problem)
        ],
        "warnings": [_finding_document(one) for one in found if one.result == "warning"],
    }
    return document if route is None else {**document, "route": route.document}


def _finding_document(finding: Finding) -> dict[str, Any]:
    problem = finding.problem
    return {
        "code": problem.code,
        "pointer": problem.pointer,
        "expected": finding.expected,
        "found": finding.found,
        "did_you_mean": finding.did_you_mean,
        "line": finding.line,
        "column": finding.column,
    }


def _print_finding(message: FileMessage, finding: Finding) -> None:
    problem = finding.problem
    kind = "error" if finding.result == "rejected" else "warning"
    at = f" at {problem.pointer}" if problem.pointer else ""
    within = f" in message {message.index}" if message.index > 1 else ""
    print_line(f"{_file(message)}:{finding.line}:{finding.column}: {kind}: {problem.code}{at}{within}")
    print_line(f"  expected: {finding.expected}")
    print_line(f"  found:    {finding.found}{_question(finding)}")
    for line in finding.drawn:
        print_line(f"  {line}")


def _sentence(finding: Finding) -> str:
    at = finding.problem.pointer or _WHOLE
    return f"{at}: expected: {finding.expected} Found: {finding.found}{_question(finding) or '.'}"


def _question(finding: Finding) -> str:
    """Return what to ask where the expected sentence does not ask it already."""
    meant = finding.did_you_mean
    return f"; did you mean {meant}?" if meant and not finding.expected.startswith(_QUESTION) else ""


def _meant(problem: Problem | CimWarning, value: str) -> str | None:
    """Return the known name or value that comes closest to what was found; never what was found."""
    known = getattr(problem, "did_you_mean", None)
    if known is not None or problem.code is not Code.INVALID_VALUE:
        return known
    close = get_close_matches(value.strip('"').upper(), _NAMED.findall(problem.expected), n=1, cutoff=_CLOSE)
    return close[0] if close else None


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _name(message: FileMessage) -> str:
    return _file(message) if message.index == 1 else f"{_file(message)}:{message.line}:{message.column}"


def _file(message: FileMessage) -> str:
    return "standard input" if message.file == "-" else message.file
