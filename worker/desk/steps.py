"""One replay under way: step by step, or in the order of each conversation; it stops by itself when it should."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from worker.dead_letters.letter import Status
from worker.desk import jobs
from worker.desk.audit import CANCELLED, lines_of
from worker.desk.order import ordered
from worker.desk.outcomes import refresh
from worker.desk.plan import Prediction, has_way_back
from worker.desk.query import matching
from worker.desk.sending import PAGE, SENT, UNKNOWN, BrokerLost, PageSender, Stop
from worker.failure import AdapterError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from worker.dead_letters.letter import LetterRecord
    from worker.desk.audit import Action
    from worker.desk.desk import Desk
    from worker.desk.filter import Filter
    from worker.desk.options import Options
    from worker.desk.order import Line
    from worker.desk.ports import ReplayOutcomes
    from worker.failure import Failure
    from worker.ports import EventPublisher

_POLL_SECONDS: Final = 0.25
_SHARE: Final = 2
"""Counting takes at most every third second: a server without the index for it looks at all letters."""
_LOOK_SECONDS: Final = 1.0
"""How often a job looks whether it shall stop."""


class Interrupted(AdapterError):  # noqa: N818 - a state of the world
    """The store went away in the middle of a job; `action` has what was done. `resume` goes on."""

    def __init__(self, action: Action, failure: Failure) -> None:
        super().__init__(failure)
        self.action = action


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


class Run:
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
        self._pages = PageSender(desk, publisher, action)
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
        """Letters of the round under way that the broker did not take, and why."""
        self._started = desk.clock.monotonic()
        self._paced = 0
        self._asking_took = 0.0
        """Seconds that counting the letters of the job took last."""

    async def run(self, chosen: Filter, *, again: bool = False) -> Action:
        """Send the letters *chosen* and return the job as it ended; *again*: it was begun before.

        Raises `Interrupted` when the store went away.
        """
        try:
            await self._end(*await self._send_all(chosen, again=again))
        except AdapterError as error:
            self._action.document |= {"state": jobs.INTERRUPTED, "why": error.failure.detail}
            raise Interrupted(self._action, error.failure) from error
        return self._action

    async def _send_all(self, chosen: Filter, *, again: bool) -> tuple[str, str]:
        """Return the state the job ends in, and why. Raises `AdapterError`."""
        try:
            try:
                if again:
                    await self._recover()
                    await self._begin_step()
                await (self._in_order(chosen) if self._options.keep_order else self._in_steps(chosen))
            finally:
                await self._finish()
            await self._wait_for_outcomes()
        except Stop as stop:
            return stop.state, str(stop)
        except BrokerLost as lost:
            return jobs.INTERRUPTED, str(lost)
        return "done", ""

    @property
    def _sent(self) -> int:
        return self._action.counts[SENT]

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
                if room < float("inf"):  # a step of the ramp counts what arrived
                    room -= await self._finish()
                if room <= 0:
                    await self._end_of_step()
                    room = next(steps, float("inf"))

    async def _eligible(self, chosen: Filter) -> AsyncIterator[list[str]]:
        """Yield ids of letters that can be sent, up to the limit; what cannot is counted."""
        limit, seen = self._options.limit, set[str]()
        while await self._has_room():
            # No more than are wanted are asked for, and those that could not be sent are still open the next time.
            asked_for = None if limit is None else limit - self._sent + len(seen)
            is_new = False
            async for page in matching(self._desk, chosen, bodies=False, limit=asked_for):
                new = [letter for letter in page if letter.id not in seen]
                if limit is not None:
                    seen |= {letter.id for letter in new}
                is_new |= bool(new)
                yield self._sendable(new)[: self._room()]
                if not await self._has_room():
                    return
            if limit is None or not is_new:
                return

    def _sendable(self, letters: Sequence[LetterRecord]) -> list[str]:
        """Return the ids of those that can be sent; the others are noted."""
        ids = []
        for letter in letters:
            if not has_way_back(letter):
                self._action.note(letter.id, Prediction.NO_WAY_BACK)
            elif letter.replays >= self._desk.max_replays and not self._options.force:
                self._action.note(letter.id, Prediction.TOO_OFTEN)
            else:
                ids.append(letter.id)
        return ids

    async def _has_room(self) -> bool:
        """Tell whether more letters are wanted; when that hangs on those in hand, wait for them."""
        if self._room() <= 0:
            await self._finish()
        return self._room() > 0

    def _room(self) -> int:
        """Return how many letters more may be sent at once."""
        limit = self._options.limit
        return PAGE if limit is None else min(PAGE, max(0, limit - self._sent - self._pages.in_hand))

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
            raise Stop(jobs.STOPPED, text)

    # -- one page ------------------------------------------------------------------------------------------------------

    async def _send(self, ids: Sequence[str]) -> int:
        """Claim letters and begin to send them; return how many of those before were sent. Raises `BrokerLost`."""
        await self._look_around()
        await self._pace(len(ids))
        return self._took(await self._pages.send(ids))

    async def _finish(self) -> int:
        """Wait for the letters in hand; return how many were sent. Raises `BrokerLost`."""
        return self._took(await self._pages.finish())

    def _took(self, done: Mapping[str, str]) -> int:
        if self._options.keep_order:
            self._came_back |= {letter_id: line for letter_id, line in done.items() if line != SENT}
        self._control.progress(self._action.counts)
        return sum(line == SENT for line in done.values())

    async def _look_around(self) -> None:
        """Stop when somebody wants that, when too many die, or when live traffic suffers."""
        if self._control.stop.is_set():
            raise Stop(CANCELLED, "stopped by hand")
        if (now := self._desk.clock.monotonic()) - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        document = await self._desk.actions.get(self._action.id)
        if document is not None and document.get("cancelledBy"):
            raise Stop(CANCELLED, f"cancelled by {document['cancelledBy']}")
        await self._action.flush()  # a job that writes nothing for a while counts as one that was killed
        if self._control.live is not None and (lagging := self._control.live.lagging()):
            raise Stop(jobs.STOPPED, lagging)
        if self._options.ramp and self._sent:
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
        began = time.monotonic()
        found = await self._desk.letters.counts({"jobId": self._action.id}, "status")
        self._asking_took = time.monotonic() - began
        return found

    async def _wait_for_outcomes(self, *, needed: bool = False) -> None:
        """Wait until no letter of the job is without outcome; *needed*: stop the job if that takes too long.

        No time to wait, and nothing needed: nothing is looked up either.
        """
        if not self._options.wait_seconds and not needed:
            return
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
                    raise Stop(jobs.STOPPED, text)
                return
            self._control.waiting(left)
            await self._look_around()
            await self._action.flush()
            await asyncio.sleep(max(_POLL_SECONDS, _SHARE * self._asking_took))

    async def _recover(self) -> None:
        """Settle what the job had in hand when it ended: known somewhere, or sent again.

        One that arrived and still waits in its queue is known nowhere: it is sent twice, which its identity makes
        harmless, and counted.
        """
        sending = {"jobId": self._action.id, "status": Status.SENDING.value}
        self._action.counts.pop(UNKNOWN, None)
        await refresh(self._desk, self._journal, sending)
        async for page in self._desk.letters.stream(sending, PAGE):
            await self._pages.publish(page, again=True)
        if sum((await self._statuses()).values()) > self._sent:
            await self._note_unwritten()

    async def _note_unwritten(self) -> None:
        """Count and write down letters that are known to have arrived, though the job did not live to do that."""
        written = {line.split()[0] async for line in lines_of(self._desk, self._action.id) if line.endswith(f" {SENT}")}
        async for page in self._desk.letters.stream({"jobId": self._action.id}, PAGE, bodies=False):
            for letter in page:
                if letter.id not in written:
                    self._action.note(letter.id, SENT)
        await self._action.flush()

    async def _end(self, state: str, why: str) -> None:
        outcomes = await self._statuses()
        await self._action.end(state, why=why, outcomes=outcomes)

    # -- in order ------------------------------------------------------------------------------------------------------

    async def _in_order(self, chosen: Filter) -> None:
        """Send the first letter of each conversation, wait for the outcomes, then the next of each, and so on.

        A step of the ramp is so many letters, of as many conversations as there are.
        """
        lines, held, unknown = await ordered(self._desk, self._journal, chosen, force=self._options.force)
        for letter_id, why in held:
            self._action.note(letter_id, why)
        await self._action.flush(order=unknown)
        steps = iter(self._options.ramp)
        room: float = next(steps, float("inf"))
        while lines:
            before = self._sent
            await self._round(lines[: int(min(self._room(), room))])
            lines = [line for line in lines if line.ids]
            room -= self._sent - before
            if room <= 0:
                await self._end_of_step()
                room = next(steps, float("inf"))
            if self._room() <= 0:
                return

    async def _round(self, lines: Sequence[Line]) -> None:
        self._came_back.clear()
        heads = {line.ids.popleft(): line for line in lines}
        ids = list(heads)
        for start in range(0, len(ids), self._page_size()):
            await self._send(ids[start : start + self._page_size()])
        await self._finish()
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
