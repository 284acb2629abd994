"""`show`: the story of one letter."""

from __future__ import annotations

import asyncio
import json
import shlex
from typing import TYPE_CHECKING, Any

from worker.cli.dead_letters.opening import open_desk
from worker.cli.dead_letters.options import ActsAs, Json, LetterId, Reveal  # noqa: TC001 - read when it is built
from worker.cli.dead_letters.printed import clock_time, forecast_document, forecast_sentence, letter_document
from worker.cli.output import counted, print_json, print_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.details import Details, Mark


def show(letter: LetterId, reveal: Reveal = False, as_json: Json = False, acts_as: ActsAs = "") -> None:
    """Tell one letter's story: why it died, what was sent and expected, where it came from, what a replay would do now.

    Values of the payload are masked, but for ids, kinds and times; --reveal shows them and is kept in the audit.
    """
    asyncio.run(_show(letter, acts_as, reveal=reveal, as_json=as_json))


async def _show(name: str, acts_as: str, *, reveal: bool, as_json: bool) -> None:
    from worker.desk.details import details
    from worker.desk.query import one

    async with open_desk(acts_as) as desk:
        told = await details(desk, await one(desk, name), reveal=reveal)
    if as_json:
        print_json(_details_document(told))
    else:
        _print_details(told, reveal=reveal)


def _details_document(told: Details) -> dict[str, Any]:
    letter = told.letter
    return {
        **letter_document(letter),
        "headers": dict(letter.headers),
        "properties": dict(letter.properties),
        "problems": [mark._asdict() for mark in told.marks],
        "hints": [hint._asdict() for hint in told.hints],
        "replayedNow": forecast_document(told.forecast),
        "lineage": [{"id": one.id, "status": one.status, "code": one.code} for one in told.lineage],
        "message": _json(told.text),
        "originalMessage": None if told.original is None else _json(told.original),
    }


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _print_details(told: Details, *, reveal: bool) -> None:
    from worker.desk.details import dotted

    letter = told.letter
    print_line(f"letter {letter.id}: {letter.status}, {letter.code} ({letter.failure_class}, {letter.stage})")
    for mark in told.marks:
        found = f"; sent: {mark.found}" if mark.found else ""
        expected = mark.expected.rstrip(".")
        print_line(f"  why         {mark.pointer or 'whole message'}: {mark.code}; expected: {expected}{found}")
    for hint in told.hints:
        print_line(f"  hint        you sent {dotted(hint.pointer)}: {hint.sentence}")
    _print_facts(letter)
    if len(told.lineage) > 1:
        chain = " -> ".join(f"{one.id} ({one.status})" for one in told.lineage)
        print_line(f"  lineage     {chain}")
    print_line(f"  replayed now {forecast_sentence(told.forecast)}")
    if letter.message_id:
        wanted = letter.message_id if letter.message_id.isprintable() else letter.id
        print_line(f"  every attempt and outcome: cim-worker explain {shlex.quote(wanted)}")
    print_line()
    shown = "values shown, which is in the audit" if reveal else "values masked; --reveal shows them and is audited"
    print_line(f"payload, {counted(len(letter.body), 'byte')} ({shown}):")
    _print_payload(told.text, told.marks)
    if told.original is not None:
        print_line()
        print_line("as it arrived, before it was edited:")
        _print_payload(told.original)


def _print_facts(letter: LetterRecord) -> None:
    died = f"{clock_time(letter.first_seen)}" + (f" to {clock_time(letter.last_seen)}" if letter.count > 1 else "")
    facts = [
        ("died", f"{died}, {counted(letter.count, 'time')}, at attempt {letter.attempt or 1}"),
        ("first try", clock_time(letter.first_failed_at)),
        ("sender", " ".join(filter(None, (letter.sender_id, letter.sender_name and f'"{letter.sender_name}"')))),
        ("broker user", letter.user_id),
        ("message", letter.message_id),
        ("conversation", letter.conversation_id),
        ("customer", letter.customer_id),
        ("came from", _origin(letter)),
        ("edited", counted(letter.revision, "time") if letter.revision else ""),
        ("replays", f"{letter.replays}, last by job {letter.job_id}" if letter.replays and letter.job_id else ""),
        ("outcome", letter.outcome),
        ("discarded", letter.reason),
        ("worker", letter.worker_version),
        ("trace", letter.traceparent),
    ]
    for name, value in facts:
        if value:
            print_line(f"  {name:<11} {value}")
    for name, value in letter.headers:
        if not name.startswith("cim-"):
            print_line(f"  header      {name}: {value}")


def _origin(letter: LetterRecord) -> str:
    exchange = letter.origin_exchange or "default"
    return f"queue {letter.origin_queue or '?'} (exchange {exchange}, routing key {letter.origin_routing_key or '?'})"


def _print_payload(text: str, marks: Sequence[Mark] = ()) -> None:
    from worker.desk.masking import text_lines

    at: dict[int, list[Mark]] = {}
    for mark in marks:
        at.setdefault(mark.line, []).append(mark)
    for number, line in enumerate(text_lines(text), 1):
        print_line(f"  {line}")
        for mark in at.get(number, ()):
            print_line(
                f"  {' ' * (mark.column - 1)}{'^' * max(1, min(mark.length, len(line) - mark.column + 1))} {mark.code}"
            )
