"""Publishing letters to where they came from: claimed, published, confirmed, marked, audited; page by page.

A letter is claimed by compare and set, so two people never send the same one. What was claimed and not confirmed is
found again by the job's id: `resume` looks it up in store and journal, and sends it again with the same id where
neither knows it. So at most one page is sent twice, and the identity of its events makes that harmless.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from worker import contract
from worker.dead_letters.letter import Status, reopened
from worker.desk import jobs
from worker.desk.audit import Action
from worker.desk.errors import rejected, usage
from worker.desk.numbers import whole_number
from worker.desk.order import Line, queues_of
from worker.desk.outcomes import refresh
from worker.desk.plan import (
    Prediction,
    has_way_back,
    is_lifecycle,
    replay_headers,
    replayed_properties,
)
from worker.desk.ports import Change
from worker.desk.query import matching
from worker.failure import AdapterError
from worker.ports import Confirmation, Outgoing

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.desk import Desk
    from worker.desk.filter import Filter
    from worker.desk.ports import Document, ReplayOutcomes
    from worker.failure import Failure
    from worker.ports import EventPublisher

PAGE: Final = 500
"""Letters claimed and sent at once: what can be sent twice after a crash."""
_POLL_SECONDS: Final = 0.25
_LOOK_SECONDS: Final = 1.0
"""How often a job looks whether it shall stop."""
_SENT: Final = "sent"
_NOT_SENT: Final = {
    Confirmation.RETURNED: "returned",
    Confirmation.NACKED: "refused",
    Confirmation.TOO_LARGE: "too large",
}
UNKNOWN: Final = "unknown"
_PERCENT: Final = 100


class BrokerLost(Exception):  # noqa: N818 - a state of the world
    """The connection ended in the middle: what was in hand may have arrived or not."""


class Interrupted(AdapterError):  # noqa: N818 - a state of the world
    """The store went away in the middle of a job; `action` has what was done. `resume` goes on."""

    def __init__(self, action: Action, failure: Failure) -> None:
        super().__init__(failure)
        self.action = action


class Allowed(NamedTuple):
    """How many letters of a step may die again."""

    number: int = 5
    is_percent: bool = True

    def of(self, step: int) -> int:
        """Return how many of *step* letters."""
        return step * self.number // _PERCENT if self.is_percent else self.number

    def __str__(self) -> str:
        return f"{self.number}{'%' * self.is_percent}"


_USUAL: Final = Allowed()


@dataclass(frozen=True, slots=True)
class Options:
    """How letters are sent."""

    limit: int | None = None
    """At most so many letters."""
    rate: float | None = None
    """At most so many a second."""
    ramp: tuple[int, ...] = ()
    """Sizes of the first steps; the outcome of each is waited for. What is left after them is sent in one go."""
    max_failures: Allowed = _USUAL
    """More letters of a step that die again stop the job."""
    wait_seconds: float = 60.0
    """Longest to wait for the outcomes of a step, and at the end for those of all."""
    keep_order: bool = False
    """Send the letters of a conversation one after the other, each after the outcome of the one before."""
    force: bool = False
    """Also send letters that were replayed too often."""

    def facts(self) -> Document:
        """Return them for the job's document."""
        return {
            "limit": self.limit,
            "rate": self.rate,
            "ramp": list(self.ramp),
            "maxFailures": str(self.max_failures),
            "waitSeconds": self.wait_seconds,
            "keepOrder": int(self.keep_order),
            "force": int(self.force),
        }

    @classmethod
    def of(cls, document: Document) -> Options:
        """Return those of a job."""
        return cls(
            document["limit"],
            document["rate"],
            tuple(document["ramp"]),
            parse_allowed(document["maxFailures"]),
            document["waitSeconds"],
            bool(document["keepOrder"]),
            bool(document["force"]),
        )


class LiveTraffic(Protocol):
    """Watches how long live messages take while letters are replayed."""

    def lagging(self) -> str | None:
        """Return one sentence if live traffic lags, else None."""


@dataclass(slots=True)
class Control:
    """How whoever started a replay follows it and stops it."""

    progress: Callable[[Counter[str]], None] = lambda _counts: None
    """Is told the counts after each page."""
    waiting: Callable[[int], None] = lambda _left: None
    """Is told how many letters have no outcome yet, while that is waited for."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set it (Ctrl-C): the job ends after the page in hand, and says what was done."""
    live: LiveTraffic | None = None


async def replay(
    desk: Desk,
    publisher: EventPublisher,
    journal: ReplayOutcomes | None,
    chosen: Filter,
    reason: str,
    options: Options = Options(),
    *,
    plan_hash: str = "",
    control: Control | None = None,
) -> Action:
    """Replay the letters *chosen* and return the job: its `document["state"]`, `["why"]` and counts.

    States: `done`; `stopped` by itself, `why` says why; `cancelled`; `interrupted` when the broker was lost, and then
    `resume` goes on. Raises `DeskError` before anything was sent, and `Interrupted` when the store went away.
    """
    desk.check_may_change(reason)
    facts = {"filter": str(chosen), "words": chosen.words(), "planHash": plan_hash, "why": "", **options.facts()}
    action = await Action.begin(desk, "replay", reason, **facts)
    return await _Job(desk, publisher, journal, action, options, control or Control()).run(
        chosen.of_status(Status.OPEN)
    )


async def resume(
    desk: Desk,
    publisher: EventPublisher,
    journal: ReplayOutcomes | None,
    job_id: str,
    *,
    control: Control | None = None,
) -> Action:
    """Go on with a job that was interrupted, stopped or cancelled. Raises `DeskError` for one that runs or is done.

    Letters that were claimed and whose confirm is not known are looked up in store, journal and dead letters first, and
    are sent again with the same id where none of them knows it. Of a job that is done, missing outcomes are looked up.
    """
    desk.check_may_change("", needs_reason=False)
    document = await jobs.job(desk, job_id)
    if document["kind"] != "replay":
        raise usage(f"{job_id} is a {document['kind']}, not a replay: there is nothing to resume")
    action = Action(desk, document)
    if document["state"] == "done":
        return await _look_up(desk, journal, action)
    if document["state"] == "running":
        raise rejected(f"job {job_id} is running: stop it first with `cim-worker dead-letters jobs cancel {job_id}`")
    facts = {"state": "running", "why": "", "endedAt": None, "cancelledBy": "", "resumedBy": str(desk.who)}
    mine: Document = {**facts, "process": desk.process, "updatedAt": desk.clock.now_ms()}
    if not await desk.actions.update(job_id, mine, {"updatedAt": document["updatedAt"]}):
        raise rejected(f"job {job_id} has just been resumed by somebody else")
    await action.flush(**mine)
    job = _Job(desk, publisher, journal, action, Options.of(document), control or Control())
    return await job.run(jobs.filter_of(document, desk.clock.now_ms()).of_status(Status.OPEN), again=True)


async def _look_up(desk: Desk, journal: ReplayOutcomes | None, action: Action) -> Action:
    """Find the outcomes that the letters of a job that is done do not say. Raises `DeskError` when they say all."""
    query = {"jobId": action.id, "status": Status.REPLAYED.value}
    if not await desk.letters.counts(query, "status"):
        raise rejected(f"job {action.id} is done: there is nothing to resume")
    await refresh(desk, journal, query)
    await action.end(outcomes=await desk.letters.counts({"jobId": action.id}, "status"))
    return action


def parse_ramp(text: str) -> tuple[int, ...]:
    """Return the steps of `1,10,100`. Raises `DeskError`."""
    steps = tuple(whole_number(part.strip()) or 0 for part in text.split(","))
    if not all(steps):
        raise usage(f"--ramp {text!r} is no list of numbers; write --ramp 1,10,100")
    return steps


def parse_allowed(text: str) -> Allowed:
    """Return `5%` or `3` as a number of letters that may die again. Raises `DeskError`."""
    number = whole_number(text.strip().removesuffix("%"))
    if number is None:
        raise usage(f"--max-failures {text!r} is no number; write --max-failures 3 or --max-failures 5%")
    return Allowed(number, text.strip().endswith("%"))


def outgoing(letter: LetterRecord, job_id: str) -> Outgoing:
    """Return the publish of a letter's replay: to where it came from, as it came, with what it is a replay of."""
    exchange = contract.CONVERSATION_EVENTS if is_lifecycle(letter) else contract.INGRESS
    properties = replayed_properties(letter)
    message_id = properties.pop("message_id", None) or letter.id
    return Outgoing(
        exchange,
        letter.origin_routing_key or letter.id,
        message_id,
        letter.body,
        headers=replay_headers(letter, job_id),
        **{"content_type": None, **properties},
    )


class _Stop(Exception):  # noqa: N818 - the job ends in an orderly way
    """Ends the job."""

    def __init__(self, state: str, why: str) -> None:
        super().__init__(why)
        self.state = state


class _Job:
    """One replay under way."""

    def __init__(
        self,
        desk: Desk,
        publisher: EventPublisher,
        journal: ReplayOutcomes | None,
        action: Action,
        options: Options,
        control: Control,
    ) -> None:
        self._desk = desk
        self._publisher = publisher
        self._journal = journal
        self._action = action
        self._options = options
        self._control = control
        self._looked_at = 0.0
        self._sent_before = 0
        """Letters that were sent before the step under way."""
        self._died_before = 0
        """Of those, how many died again."""
        self._came_back: dict[str, str] = {}
        """Letters of the round under way that the broker did not take, and why; only where order is kept."""
        self._started = desk.clock.monotonic()
        self._paced = 0

    async def run(self, chosen: Filter, *, again: bool = False) -> Action:
        try:
            await self._end(*await self._send_all(chosen, again=again))
        except AdapterError as error:
            self._action.document |= {"state": jobs.INTERRUPTED, "why": error.failure.detail}
            raise Interrupted(self._action, error.failure) from error
        return self._action

    async def _send_all(self, chosen: Filter, *, again: bool) -> tuple[str, str]:
        """Return the state the job ends in, and why. Raises `AdapterError`."""
        try:
            if again:
                await self._recover()
            await self._begin_step()
            await (self._in_order(chosen) if self._options.keep_order else self._in_steps(chosen))
            await self._wait_for_outcomes()
        except _Stop as stop:
            return stop.state, str(stop)
        except BrokerLost as lost:
            return jobs.INTERRUPTED, str(lost)
        return "done", ""

    @property
    def _sent(self) -> int:
        return self._action.counts[_SENT]

    # -- steps ---------------------------------------------------------------------------------------------------------

    async def _in_steps(self, chosen: Filter) -> None:
        """Send step by step; after the last step of the ramp, all that is left."""
        steps = iter(self._options.ramp)
        room: float = next(steps, float("inf"))
        async for letters in self._eligible(chosen):
            left = letters
            while left:
                size = int(min(len(left), room, self._page_size()))
                batch, left = left[:size], left[size:]
                room -= await self._send(batch)
                if room <= 0:
                    await self._end_of_step()
                    room = next(steps, float("inf"))

    async def _eligible(self, chosen: Filter) -> AsyncIterator[list[str]]:
        """Yield ids of letters that can be sent, up to the limit; what cannot is counted."""
        async for page in matching(self._desk, chosen, bodies=False):
            ids = []
            for letter in page:
                if not has_way_back(letter):
                    self._action.note(letter.id, Prediction.NO_WAY_BACK)
                elif letter.replays >= self._desk.max_replays and not self._options.force:
                    self._action.note(letter.id, Prediction.TOO_OFTEN)
                else:
                    ids.append(letter.id)
            room = self._room()
            yield ids[:room]
            if self._room() <= 0:
                return

    def _room(self) -> int:
        limit = self._options.limit
        return PAGE if limit is None else min(PAGE, max(0, limit - self._sent))

    def _page_size(self) -> int:
        """Return how many letters are sent at once: with a rate, about a quarter of a second's."""
        rate = self._options.rate
        return PAGE if rate is None else max(1, min(PAGE, int(rate / 4)))

    async def _end_of_step(self) -> None:
        """Wait for the outcomes of a step, and stop when too many of it died again."""
        await self._wait_for_outcomes(needed=True)
        await self._check_failures()
        await self._begin_step()

    async def _begin_step(self) -> None:
        self._sent_before, self._died_before = self._sent, await self._died()

    async def _died(self) -> int:
        return (await self._statuses()).get(Status.DIED_AGAIN.value, 0)

    async def _check_failures(self) -> None:
        """Stop when more letters of the step under way died again than are allowed."""
        new, size = await self._died() - self._died_before, max(self._sent - self._sent_before, 1)
        if new > self._options.max_failures.of(size):
            text = f"{new} of the last {size} letters died again, {self._options.max_failures} are allowed"
            raise _Stop(jobs.STOPPED, text)

    # -- one page ------------------------------------------------------------------------------------------------------

    async def _send(self, ids: Sequence[str]) -> int:
        """Claim letters and send them; return how many were sent. Raises `BrokerLost`."""
        await self._look_around()
        await self._pace(len(ids))
        sent = 0
        try:
            async for letters in self._claim(ids):
                sent += await self._publish(letters)
        except _Stop:
            await self._give_back(ids)
            raise
        self._control.progress(self._action.counts)
        return sent

    async def _claim(self, ids: Sequence[str]) -> AsyncIterator[list[LetterRecord]]:
        """Claim letters, and yield those that are ours: all in one page unless their bodies are large."""
        claim = Change(
            {
                "status": Status.SENDING.value,
                "statusAt": self._desk.clock.now_ms(),
                "jobId": self._action.id,
                "outcome": "",
                "successor": "",
            },
            add={"replays": 1},
        )
        changed = await self._desk.letters.change(ids, {"status": Status.OPEN.value}, claim)
        if changed < len(ids):
            self._action.counts["taken by others"] += len(ids) - changed
        mine = {"_id": {"$in": list(ids)}, "jobId": self._action.id, "status": Status.SENDING.value}
        place = {letter_id: number for number, letter_id in enumerate(ids)}
        async for page in self._desk.letters.stream(mine, PAGE):
            yield sorted(page, key=lambda letter: place[letter.id])

    async def _give_back(self, ids: Sequence[str]) -> None:
        """Open those of *ids* again that were claimed and not published."""
        mine = {"jobId": self._action.id, "status": Status.SENDING.value}
        await self._desk.letters.change(ids, mine, Change(reopened(self._desk.clock.now_ms()), add={"replays": -1}))

    async def _publish(self, letters: Sequence[LetterRecord]) -> int:
        """Publish claimed letters, mark what is confirmed and give back what is refused. Raises `BrokerLost`."""
        if not letters:
            return 0
        confirmations = await self._publisher.publish([outgoing(one, self._action.id) for one in letters])
        results = dict(zip((one.id for one in letters), confirmations, strict=True))
        for letter_id, confirmation in results.items():
            self._action.note(letter_id, _line_of(confirmation))
        now = self._desk.clock.now_ms()
        mine = {"jobId": self._action.id, "status": Status.SENDING.value}
        sent = [one for one, confirmation in results.items() if confirmation is Confirmation.CONFIRMED]
        back = [one for one, confirmation in results.items() if confirmation in _NOT_SENT]
        if self._options.keep_order:
            self._came_back |= {one: _line_of(results[one]) for one in back}
        if sent:
            await self._desk.letters.change(sent, mine, Change({"status": Status.REPLAYED.value, "statusAt": now}))
        if back:
            await self._give_back(back)
        await self._action.flush()
        unknown = len(results) - len(sent) - len(back)
        if unknown:
            raise BrokerLost(
                f"the connection to the broker ended: {unknown} of the letters are sent or not, nobody knows"
            )
        self._check_refusals(results, back)
        return len(sent)

    def _check_refusals(self, results: dict[str, Confirmation], back: Sequence[str]) -> None:
        """Stop when a page came back as a whole: what is wrong is not the letters."""
        if back and len(back) == len(results):
            why = _line_of(results[back[0]])
            hint = {
                "returned": "its exchange has no queue: run `cim-worker topology apply`",
                "refused": "the queue is full or not available",
                "too large": "they are larger than the broker's max_message_size",
            }[why]
            raise _Stop(jobs.STOPPED, f"{len(back)} of {len(back)} letters came back {why}: {hint}")

    async def _look_around(self) -> None:
        """Stop when somebody wants that, when too many die, or when live traffic suffers."""
        if self._control.stop.is_set():
            raise _Stop(jobs.CANCELLED, "stopped by hand")
        if (now := self._desk.clock.monotonic()) - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        document = await self._desk.actions.get(self._action.id)
        if document is not None and document.get("cancelledBy"):
            raise _Stop(jobs.CANCELLED, f"cancelled by {document['cancelledBy']}")
        await self._action.flush()  # a job that writes nothing for a while counts as one that was killed
        if self._control.live is not None and (lagging := self._control.live.lagging()):
            raise _Stop(jobs.STOPPED, lagging)
        if self._options.ramp and not self._options.keep_order and self._sent:
            await self._check_failures()

    async def _pace(self, count: int) -> None:
        if self._options.rate is None:
            return
        due = self._started + self._paced / self._options.rate
        self._paced += count
        while (left := due - self._desk.clock.monotonic()) > 0:
            await asyncio.sleep(min(left, _LOOK_SECONDS))
            await self._look_around()

    # -- outcomes ------------------------------------------------------------------------------------------------------

    async def _statuses(self) -> dict[str, int]:
        return await self._desk.letters.counts({"jobId": self._action.id}, "status")

    async def _wait_for_outcomes(self, *, needed: bool = False) -> None:
        """Wait until no letter of the job is without outcome; *needed*: stop the job if that takes too long."""
        deadline = self._desk.clock.monotonic() + self._options.wait_seconds
        while left := (await self._statuses()).get(Status.REPLAYED.value, 0):
            if self._desk.clock.monotonic() > deadline:
                await refresh(self._desk, self._journal, {"jobId": self._action.id, "status": Status.REPLAYED.value})
                left = (await self._statuses()).get(Status.REPLAYED.value, 0)
                if left and needed:
                    hint = (
                        "they are retried or wait, no worker runs, or none trusts this broker user (CIM_TRUSTED_USERS)"
                    )
                    text = f"{left} of the letters sent have no outcome after {self._options.wait_seconds:g} s: {hint}"
                    raise _Stop(jobs.STOPPED, text)
                return
            self._control.waiting(left)
            await self._look_around()
            await self._action.flush()
            await asyncio.sleep(_POLL_SECONDS)

    async def _recover(self) -> None:
        """Settle what the job had in hand when it ended: known somewhere, or sent again."""
        sending = {"jobId": self._action.id, "status": Status.SENDING.value}
        self._action.counts.pop(UNKNOWN, None)
        await refresh(self._desk, self._journal, sending)
        async for page in self._desk.letters.stream(sending, PAGE):
            for start in range(0, len(page), PAGE):
                await self._publish(page[start : start + PAGE])
        unmarked = sum((await self._statuses()).values()) - self._sent
        if unmarked > 0:
            self._action.counts[_SENT] += unmarked  # known to have arrived, though their confirm was not seen

    async def _end(self, state: str, why: str) -> None:
        outcomes = await self._statuses()
        await self._action.end(state, why=why, outcomes=outcomes)

    # -- in order ------------------------------------------------------------------------------------------------------

    async def _in_order(self, chosen: Filter) -> None:
        """Send the first letter of each conversation, wait for the outcomes, then the next of each, and so on."""
        lines, held = await queues_of(self._desk, chosen, force=self._options.force)
        for letter_id, why in held:
            self._action.note(letter_id, why)
        while lines:
            await self._round([line for line in lines if line.ids][: self._room()])
            lines = [line for line in lines if line.ids]
            if self._room() <= 0:
                return

    async def _round(self, lines: Sequence[Line]) -> None:
        self._came_back.clear()
        heads = {line.ids.popleft(): line for line in lines}
        ids = list(heads)
        for start in range(0, len(ids), self._page_size()):
            await self._send(ids[start : start + self._page_size()])
        if not any(line.ids for line in lines):
            return
        await self._wait_for_outcomes(needed=True)
        for letter_id, why in (await self._not_settled(ids)).items():
            while heads[letter_id].ids:
                self._action.note(heads[letter_id].ids.popleft(), f"held: the one before it {why}")

    async def _not_settled(self, ids: Sequence[str]) -> dict[str, str]:
        """Return those of *ids* that did not arrive, each with what became of it."""
        query = {"jobId": self._action.id, "_id": {"$in": list(ids)}}
        pages = [page async for page in self._desk.letters.stream(query, PAGE, bodies=False)]
        statuses = {letter.id: letter.status for page in pages for letter in page}
        return {one: self._fate(one, statuses) for one in ids if statuses.get(one) != Status.SETTLED}

    def _fate(self, letter_id: str, statuses: Mapping[str, str]) -> str:
        if statuses.get(letter_id) == Status.DIED_AGAIN:
            return "died again"
        if letter_id in self._came_back:
            return f"came back {self._came_back[letter_id]}"
        return "was taken or changed by others"


def _line_of(confirmation: Confirmation) -> str:
    if confirmation is Confirmation.CONFIRMED:
        return _SENT
    return _NOT_SENT.get(confirmation, UNKNOWN)
