"""Commands that look at letters and change nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from worker.cli.dead_letters.opening import chosen_by, now_ms, open_desk
from worker.cli.dead_letters.options import ActsAs, Json, LetterId, Reveal, filtered
from worker.cli.errors import CommandError
from worker.cli.output import counted, print_json, print_json_text, print_line, print_table
from worker.cli.services import command_settings, open_broker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk
    from worker.desk.details import Details, Mark
    from worker.desk.filter import Filter
    from worker.desk.plan import Forecast
    from worker.desk.query import Cause
    from worker.settings import Settings

_POLL_SECONDS: Final = 1.0
_WATCHED_AT_ONCE: Final = 200
_SENDERS_SHOWN: Final = 3
_JUST_NOW_MS: Final = 60_000


@filtered
def groups(
    names: list[str],
    words: dict[str, Any],
    *,
    newest: Annotated[bool, typer.Option("--newest", help="The newest cause first, not the largest.")] = False,
    as_json: Json = False,
) -> None:
    """Show one line per cause of open letters: how many, why, who sent them, since when. The default command.

    The first column is the shortest beginning of the cause that is unambiguous now: name it in the next command, as in
    `show CAUSE`. Letters that wait in the queue or are parked there are counted, and none is taken out.
    """
    asyncio.run(_groups(names, words, newest=newest, as_json=as_json))


@filtered
def list_(
    names: list[str],
    words: dict[str, Any],
    *,
    limit: Annotated[int, typer.Option(help="Maximum number of letters to print.", min=1, max=100_000)] = 50,
    as_json: Json = False,
) -> None:
    """List letters, those that died last first."""
    asyncio.run(_list(names, words, limit, as_json=as_json))


def show(letter: LetterId, reveal: Reveal = False, as_json: Json = False, acts_as: ActsAs = "") -> None:
    """Tell one letter's story: why it died, what was sent and expected, where it came from, what a replay would do now.

    Values of the payload are masked, but for ids, kinds and times; --reveal shows them and is kept in the audit.
    """
    asyncio.run(_show(letter, acts_as, reveal=reveal, as_json=as_json))


@filtered
def watch(names: list[str], words: dict[str, Any], *, as_json: Json = False) -> None:
    """Print letters as they are recorded, until Ctrl-C; with --json one object a line.

    With --since it begins with the letters that died since then, at most the last 200 of them.
    """
    try:
        asyncio.run(_watch(names, words, as_json=as_json))
    except KeyboardInterrupt:
        return


@filtered
def export(names: list[str], words: dict[str, Any], *, reveal: Reveal = False, acts_as: ActsAs = "") -> None:
    """Write letters as JSON lines: payloads masked, for a ticket; with --reveal whole, for `import` and for tests."""
    asyncio.run(_export(names, words, acts_as, reveal=reveal))


async def _groups(names: Sequence[str], words: Mapping[str, Any], *, newest: bool, as_json: bool) -> None:
    from worker.desk.query import Order, statuses
    from worker.desk.query import groups as find

    settings = command_settings()
    async with open_desk(settings=settings) as desk:
        chosen = await chosen_by(desk, names, words)
        causes = await find(desk, chosen, Order.NEWEST if newest else Order.LARGEST)
        by_status = await statuses(desk)
    queues = await _queues(settings)
    if as_json:
        print_json({"filter": str(chosen), "causes": [_cause(one) for one in causes], "statuses": by_status, **queues})
        return
    if causes:
        columns = ("cause", "letters", "code", "where", "senders", "first", "last", "trend", "expected")
        print_table(None, columns, [_cause_row(one) for one in causes])
        print_line(
            f"{counted(sum(one.letters for one in causes), 'letter')} of {counted(len(causes), 'cause')}: {chosen}"
        )
        print_line("next: cim-worker dead-letters show CAUSE, then plan CAUSE")
    else:
        print_line(f"no letters: {chosen}")
    _print_elsewhere(by_status, queues)


def _print_elsewhere(by_status: Mapping[str, int], queues: Mapping[str, Any]) -> None:
    """Say where letters are that were not listed."""
    others = {status: number for status, number in sorted(by_status.items()) if status != "open" and number}
    if others:
        print_line("others: " + ", ".join(f"{number} {status}" for status, number in others.items()))
    if queues["queue"]:
        print_line(f"{counted(queues['queue'], 'letter')} in cim.dead-letters, not recorded yet: a worker does that")
    if queues["parked"]:
        print_line(
            f"{counted(queues['parked'], 'letter')} parked in cim.dead-letters.parked: no document can hold them"
        )
    if queues["problem"]:
        print_line(f"queues not looked at: {queues['problem']}")


async def _queues(settings: Settings) -> dict[str, Any]:
    """Return how many letters are in the queues; what cannot be asked is said and fails nothing."""
    from worker.contract import DEAD_LETTERS, PARKED
    from worker.rabbit.depths import PassiveDepths

    try:
        async with open_broker(settings) as connection:
            depths = await PassiveDepths(connection).depths((DEAD_LETTERS, PARKED))
    except CommandError as error:
        return {"queue": None, "parked": None, "problem": str(error)}
    ready = {name: depth.ready for name, depth in depths.items() if depth is not None}
    return {"queue": ready.get(DEAD_LETTERS), "parked": ready.get(PARKED), "problem": None}


async def _list(names: Sequence[str], words: Mapping[str, Any], limit: int, *, as_json: bool) -> None:
    from worker.desk.query import list_letters

    async with open_desk() as desk:
        chosen = await chosen_by(desk, names, words)
        letters = await list_letters(desk, chosen, limit)
    if as_json:
        print_json([letter_document(one) for one in letters])
        return
    if not letters:
        print_line(f"no letters: {chosen}")
        return
    columns = ("id", "status", "code", "where", "sender", "message", "conversation", "last", "times", "replays")
    print_table(None, columns, [_row(one) for one in letters])
    more = f", at most {limit} shown (--limit)" if len(letters) == limit else ""
    print_line(f"{counted(len(letters), 'letter')}{more}: {chosen}")


async def _show(name: str, acts_as: str, *, reveal: bool, as_json: bool) -> None:
    from worker.desk.details import details
    from worker.desk.query import one

    async with open_desk(acts_as) as desk:
        told = await details(desk, await one(desk, name), reveal=reveal)
    if as_json:
        print_json(_details_document(told))
    else:
        _print_details(told, reveal=reveal)


async def _watch(names: Sequence[str], words: Mapping[str, Any], *, as_json: bool) -> None:
    async with open_desk() as desk:
        chosen = await chosen_by(desk, names, words)
        since = now_ms() if chosen.since is None else chosen.since
        if not as_json:
            print_line(f"watching: {chosen}; Ctrl-C ends")
        seen: dict[str, int] = {}
        while True:
            for letter in await _since(desk, chosen, since):
                if seen.get(letter.id) != letter.count:
                    seen[letter.id] = letter.count
                    _print_watched(letter, as_json=as_json)
            while len(seen) > 10 * _WATCHED_AT_ONCE:
                seen.pop(next(iter(seen)))
            since = max(since, now_ms() - 60_000)
            await asyncio.sleep(_POLL_SECONDS)


async def _since(desk: Desk, chosen: Filter, since: int) -> list[LetterRecord]:
    """Return the letters *chosen* that were seen since then, the oldest first."""
    from worker.desk.query import list_letters

    return (await list_letters(desk, replace(chosen, since=since), _WATCHED_AT_ONCE))[::-1]


def _print_watched(letter: LetterRecord, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(letter_document(letter)) + "\n")
        sys.stdout.flush()
        return
    where = f" at {letter.pointer}" if letter.pointer else ""
    print_line(
        f"{_time(letter.last_seen)}  {letter.id}  {letter.code}{where}  sender {letter.sender_id or '?'}"
        f"  message {letter.message_id or '?'}"
    )


async def _export(names: Sequence[str], words: Mapping[str, Any], acts_as: str, *, reveal: bool) -> None:
    from worker.desk.transfer import export as lines

    async with open_desk(acts_as) as desk:
        async for line in lines(desk, await chosen_by(desk, names, words), reveal=reveal):
            print_json_text(line)
        sys.stdout.flush()


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


def _details_document(told: Details) -> dict[str, Any]:
    letter = told.letter
    try:
        message = json.loads(told.text)
    except ValueError:
        message = told.text
    return {
        **letter_document(letter),
        "headers": dict(letter.headers),
        "properties": dict(letter.properties),
        "problems": [mark._asdict() for mark in told.marks],
        "hints": [hint._asdict() for hint in told.hints],
        "replayedNow": forecast_document(told.forecast),
        "lineage": [{"id": one.id, "status": one.status, "code": one.code} for one in told.lineage],
        "message": message,
    }


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
        print_line(f"  every attempt and outcome: cim-worker explain {letter.message_id}")
    print_line()
    shown = "values shown, which is in the audit" if reveal else "values masked; --reveal shows them and is audited"
    print_line(f"payload, {counted(len(letter.body), 'byte')} ({shown}):")
    _print_payload(told.text, told.marks)


def _print_facts(letter: LetterRecord) -> None:
    died = f"{_time(letter.first_seen)}" + (f" to {_time(letter.last_seen)}" if letter.count > 1 else "")
    facts = [
        ("died", f"{died}, {counted(letter.count, 'time')}, at attempt {letter.attempt or 1}"),
        ("first try", _time(letter.first_failed_at)),
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


def _print_payload(text: str, marks: Sequence[Mark]) -> None:
    at: dict[int, list[Mark]] = {}
    for mark in marks:
        at.setdefault(mark.line, []).append(mark)
    for number, line in enumerate(text.splitlines(), 1):
        print_line(f"  {line}")
        for mark in at.get(number, ()):
            print_line(
                f"  {' ' * (mark.column - 1)}{'^' * max(1, min(mark.length, len(line) - mark.column + 1))} {mark.code}"
            )


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


def _cause(cause: Cause) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(cause)


def _cause_row(cause: Cause) -> Sequence[object]:
    senders = list(cause.senders[:_SENDERS_SHOWN]) or list(cause.users[:_SENDERS_SHOWN])
    if len(cause.senders) > _SENDERS_SHOWN:
        senders.append("…")
    trend = ("NEW, " if cause.is_new else "") + f"{cause.last_hour} this hour, usually {cause.usual_hour:g}"
    return (
        cause.handle,
        cause.letters,
        cause.code,
        cause.pointer or "(whole message)",
        senders,
        _ago(cause.first_seen),
        _ago(cause.last_seen),
        trend,
        cause.detail,
    )


def _ago(at: int) -> str:
    from worker.desk.times import duration

    passed = now_ms() - at
    return "just now" if passed < _JUST_NOW_MS else f"{duration(passed)} ago"


def _row(letter: LetterRecord) -> Sequence[object]:
    return (
        letter.id,
        letter.status,
        letter.code,
        letter.pointer or "(whole message)",
        letter.sender_id,
        letter.message_id,
        letter.conversation_id,
        _time(letter.last_seen),
        letter.count,
        letter.replays,
    )


def _time(at: int | None) -> str:
    from worker.desk.times import utc

    return "" if at is None else utc(at, timespec="seconds")
