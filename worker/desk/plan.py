"""What a replay would do: today's code runs on the letters, and nothing is touched.

Validation, sender check, translation and routing are the workers' own; the registry and the store are only asked.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from worker import contract
from worker.codes import Stage
from worker.conversations.lifecycle import Ignored, LifecycleChange, parse_lifecycle
from worker.dead_letters.letter import Status
from worker.desk.query import matching
from worker.failure import Failure, classify
from worker.pipeline.inbound import Inbound
from worker.pipeline.ports import StoredBecause
from worker.pipeline.translate import Destination
from worker.ports import Properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from worker.conversations.conversation import Conversation
    from worker.conversations.ports import Lookup
    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk
    from worker.desk.edit import Rules
    from worker.desk.filter import Filter

_STORE_STAGE: Final = Stage.STORE.value
_NUMBERS: Final = frozenset({"timestamp"})
"""Properties that are integers."""
_SAMPLES: Final = 3
_AT_ONCE: Final = 25
"""Letters that are worked on without a pause: some milliseconds."""


class Prediction(StrEnum):
    """What would become of a letter, replayed now."""

    PUBLISH = "would_publish"
    """To its live conversation, or to the store if nobody listens there."""
    STORE = "would_store"
    DUPLICATE = "duplicate"
    """The store holds its activity already."""
    APPLY = "would_apply"
    """It is a conversation event that can be read."""
    SAME = "still_fails"
    """It would die of the same cause."""
    NEW = "fails_anew"
    """It would die of another cause."""
    NO_WAY_BACK = "no_way_back"
    """Nobody knows where it came from, or its bytes are not in the store."""
    TOO_OFTEN = "replayed_too_often"
    """Its replays died as often as is allowed."""


GOOD: Final = frozenset({Prediction.PUBLISH, Prediction.STORE, Prediction.DUPLICATE, Prediction.APPLY})
"""Predictions of letters that would not die again."""


class Forecast(NamedTuple):
    """What would become of one letter."""

    letter: LetterRecord
    prediction: Prediction
    reason: str = ""
    """Why it would be stored, or the code it would die of."""
    detail: str = ""
    """One sentence about that."""
    pointer: str = ""
    after_newer: bool = False
    """Whether its conversation has newer activities already."""
    conversation_id: str = ""
    """The conversation it belongs to, as far as known."""
    timestamp: int = 0
    """When its activity happened (epoch ms), 0 if unknown."""


@dataclass(slots=True)
class Plan:
    """What a replay would do, counted."""

    letters: int = 0
    predictions: Counter[str] = field(default_factory=Counter)
    """By `Prediction`."""
    stored_because: Counter[str] = field(default_factory=Counter)
    failures: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Letters that would fail, by prediction, code and pointer."""
    after_newer: int = 0
    changed: int = 0
    """Letters that the rules for editing would change."""
    samples: dict[str, list[str]] = field(default_factory=dict)
    """A few ids of letters for each prediction."""
    _digest: Any = field(default_factory=hashlib.sha256, repr=False)

    def add(self, forecast: Forecast) -> None:
        """Count one more."""
        self.letters += 1
        self.predictions[forecast.prediction] += 1
        if forecast.prediction is Prediction.STORE:
            self.stored_because[forecast.reason] += 1
        elif forecast.prediction in {Prediction.SAME, Prediction.NEW}:
            self.failures[forecast.prediction, forecast.reason, forecast.pointer] += 1
        self.after_newer += forecast.after_newer
        samples = self.samples.setdefault(forecast.prediction, [])
        if len(samples) < _SAMPLES:
            samples.append(forecast.letter.id)
        self._digest.update(f"{forecast.letter.id} {forecast.prediction} {forecast.reason}\n".encode())

    @property
    def hash(self) -> str:
        """Twelve hex digits: the same for the same letters with the same predictions, in the same order."""
        return str(self._digest.hexdigest()[:12])

    @property
    def good(self) -> int:
        """How many would not die again."""
        return sum(self.predictions[one] for one in GOOD)

    @property
    def would_fail(self) -> int:
        """How many would die again."""
        return self.predictions[Prediction.SAME] + self.predictions[Prediction.NEW]


async def plan(
    desk: Desk,
    chosen: Filter,
    rules: Rules | None = None,
    *,
    force: bool = False,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda _count: None,
) -> Plan:
    """Return what a replay of the letters *chosen* would do now; with *rules*, after they were edited by them.

    *force*: letters are not refused for having been replayed too often. *progress* is told how many were looked at.
    """
    made = Plan()
    async for page in matching(desk, chosen, limit=limit):
        letters = page if limit is None else page[: limit - made.letters]
        if rules is not None:
            edited = [rules.edited(letter) for letter in letters]
            made.changed += sum(after is not before for after, before in zip(edited, letters, strict=True))
            letters = edited
        for forecast in await forecast_all(desk, letters, force=force):
            made.add(forecast)
        progress(len(letters))
        if limit is not None and made.letters >= limit:
            break
    return made


async def forecast_all(desk: Desk, letters: Sequence[LetterRecord], *, force: bool = False) -> list[Forecast]:
    """Return what would become of each letter, in order; the registry and the store are asked once for all."""
    now = desk.clock.now_ms()
    found: dict[int, Forecast] = {}
    inbounds: dict[int, Inbound] = {}
    for place, letter in enumerate(letters):
        await _let_others_work(place)
        read = _read(desk, letter, now, force=force)
        if isinstance(read, Inbound):
            inbounds[place] = read
        else:
            found[place] = read
    found |= await _routed(desk, letters, inbounds, now)
    return [found[place] for place in range(len(letters))]


async def _let_others_work(place: int) -> None:
    """Let others of this process have their turn between letters: a browser may wait for its page meanwhile."""
    if place % _AT_ONCE == 0:
        await asyncio.sleep(0)


class LetterDelivery:
    """A letter as the workers would get it, replayed by the desk."""

    __slots__ = (
        "body",
        "exchange",
        "prior_deliveries",
        "properties",
        "queue",
        "received_at",
        "redelivered",
        "routing_key",
        "tag",
    )

    def __init__(self, letter: LetterRecord, user: str) -> None:
        self.body = letter.body
        self.exchange = letter.origin_exchange
        self.routing_key = letter.origin_routing_key
        self.queue = letter.origin_queue
        self.tag = self.prior_deliveries = 0
        self.redelivered = False
        self.received_at = 0.0
        self.properties = Properties(**replayed_properties(letter), headers=replay_headers(letter, ""), user_id=user)


def replayed_properties(letter: LetterRecord) -> dict[str, Any]:
    """Return the AMQP properties that a letter's message came with, as far as they are sent again."""
    return {
        name: int(value) if name in _NUMBERS else value
        for name, value in letter.properties
        if name not in _NUMBERS or value.isdecimal()
    }


def replay_headers(letter: LetterRecord, job_id: str) -> dict[str, str | int]:
    """Return the headers of a letter's replay: who published it first, what it is a replay of, and its own key."""
    headers: dict[str, str | int] = {contract.REPLAY_OF: letter.id, contract.REPLAY_JOB: job_id}
    if letter.user_id:
        headers[contract.USER_ID] = letter.user_id
    if letter.idempotency_key:
        headers[contract.IDEMPOTENCY_KEY] = letter.idempotency_key
    if letter.traceparent:
        headers[contract.TRACEPARENT] = letter.traceparent
    return headers


def is_lifecycle(letter: LetterRecord) -> bool:
    """Tell whether a letter's message is a conversation event."""
    return letter.origin_queue == contract.CONVERSATION_EVENTS


def has_way_back(letter: LetterRecord) -> bool:
    """Tell whether it is known where a letter came from, and its bytes are here."""
    queue = letter.origin_queue
    from_ingress = queue == contract.INGRESS or queue.startswith(contract.INGRESS + ".")
    return letter.status != Status.PARKED and (from_ingress or is_lifecycle(letter))


def _read(desk: Desk, letter: LetterRecord, now: int, *, force: bool) -> Inbound | Forecast:
    if not has_way_back(letter):
        return Forecast(letter, Prediction.NO_WAY_BACK)
    if letter.replays >= desk.max_replays and not force:
        return Forecast(letter, Prediction.TOO_OFTEN)
    if is_lifecycle(letter):
        return _lifecycle(letter, now)
    try:
        read = desk.reading.read(LetterDelivery(letter, desk.user), now)
    except Exception as error:  # noqa: BLE001 - a bug in the contract is what the workers would stumble over, too
        return _fails(letter, classify(error, Stage.VALIDATE))
    return read if isinstance(read, Inbound) else _fails(letter, read.failure)


def _lifecycle(letter: LetterRecord, now: int) -> Forecast:
    read = parse_lifecycle(letter.body, received_at=now)
    if isinstance(read, LifecycleChange):
        return Forecast(letter, Prediction.APPLY, conversation_id=read.conversation_id)
    if isinstance(read, Ignored):
        return Forecast(letter, Prediction.APPLY, detail="It says nothing that the registry needs.")
    return _fails(letter, Failure.of_problems(read.problems))


def _fails(letter: LetterRecord, failure: Failure) -> Forecast:
    same = failure.fingerprint == letter.fingerprint
    prediction = Prediction.SAME if same else Prediction.NEW
    return Forecast(letter, prediction, failure.code.value, failure.detail, failure.pointer)


async def _routed(
    desk: Desk, letters: Sequence[LetterRecord], inbounds: Mapping[int, Inbound], now: int
) -> dict[int, Forecast]:
    """Return what becomes of valid messages."""
    if not inbounds:
        return {}
    known = await _conversations(desk, inbounds.values())
    found: dict[int, Forecast] = {}
    for place, inbound in inbounds.items():
        await _let_others_work(place)
        found[place] = _forecast(desk, letters[place], inbound, known, now)
    to_store = {place: inbounds[place] for place, one in found.items() if one.prediction is Prediction.STORE}
    held = await desk.activities.held([_event_id(inbound) for inbound in to_store.values()])
    refused = await _refusals(desk, letters, to_store)
    newest = await desk.activities.newest({one.conversation_id for one in found.values() if one.conversation_id})
    for place, forecast in found.items():
        if place in refused:
            found[place] = _fails(letters[place], refused[place])
        elif place in to_store and _event_id(to_store[place]) in held:
            found[place] = forecast._replace(prediction=Prediction.DUPLICATE)
        elif newest.get(forecast.conversation_id, 0) > forecast.timestamp:
            found[place] = forecast._replace(after_newer=True)
    return found


async def _conversations(desk: Desk, inbounds: Iterable[Inbound]) -> Lookup:
    conversation_ids, session_ids = set(), set()
    for inbound in inbounds:
        if inbound.identity.conversation_id is not None:
            conversation_ids.add(inbound.identity.conversation_id)
        elif inbound.channel_session_id is not None:
            session_ids.add(inbound.channel_session_id)
    return await desk.registry.lookup(conversation_ids, session_ids)


def _conversation_of(inbound: Inbound, known: Lookup) -> Conversation | None:
    if inbound.identity.conversation_id is not None:
        record = known.by_conversation.get(inbound.identity.conversation_id)
    else:
        record = known.by_session.get(inbound.channel_session_id or "")
    return None if record is None else record.to_conversation()


def _event_id(inbound: Inbound) -> str:
    return inbound.identity.event_id or ""


def _forecast(desk: Desk, letter: LetterRecord, inbound: Inbound, known: Lookup, now: int) -> Forecast:
    """Return where a message would go; the exchange of a conversation nobody has heard of is not there."""
    happened_at = inbound.message.timestamp if inbound.message is not None else now
    inbound.conversation = _conversation_of(inbound, known)
    to_store = desk.reading.route(inbound, now) is Destination.STORE or inbound.conversation is None
    reason = inbound.stored_because or StoredBecause.UNKNOWN_CONVERSATION
    return Forecast(
        letter,
        Prediction.STORE if to_store else Prediction.PUBLISH,
        reason.value if to_store else "",
        conversation_id=inbound.identity.conversation_id or "",
        timestamp=happened_at,
    )


async def _refusals(desk: Desk, letters: Sequence[LetterRecord], to_store: Mapping[int, Inbound]) -> dict[int, Failure]:
    """Return why no document can hold what died in the store before, where that is still so."""
    doubtful = [place for place in to_store if letters[place].stage == _STORE_STAGE]
    if not doubtful:
        return {}
    activities = [desk.reading.activity_of(to_store[place]) for place in doubtful]
    answers = await desk.activities.refusals(activities)
    return {place: answer for place, answer in zip(doubtful, answers, strict=True) if answer is not None}
