"""What needs the store: written in bundles while it takes them, kept in the waiting room while it is away or behind.

Live traffic needs no write and must not feel a store that does: what waits here is bounded by half the window, and what
is beyond waits in the broker, one confirmed copy each, its attempt unspent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from worker.codes import Code, Stage
from worker.failure import AdapterError, Dependency, Failure, classify
from worker.flow.lane import Lane
from worker.outcome import Outcome
from worker.pipeline.order import MOST_ENDS
from worker.pipeline.ports import Refused, Unproven, Written
from worker.pipeline.store_share import BEHIND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.flow.gate import Gate
    from worker.flow.tasks import Crash
    from worker.pipeline.copies import Copies
    from worker.pipeline.inbound import Inbound
    from worker.pipeline.ports import ActivityWriter, StoreResult
    from worker.pipeline.reading import Reading
    from worker.pipeline.settlement import Settlement
    from worker.pipeline.store_share import StoreShare
    from worker.ports import Clock, Delivery, Reporter

_BUNDLE_BYTES: Final = 1024 * 1024
"""Most bytes in one write: a document and its parsed message take many times the memory of their bytes."""
_PARSED_BYTES: Final = 2 * 1024 * 1024
"""Bodies that may wait with their parsed message; those beyond are parsed again when it is their turn."""
_SMALLEST_BUNDLE: Final = 10
_BEHIND_SECONDS: Final = 0.5
_SLOW_SECONDS: Final = 1.0
"""A write that takes longer makes the next ones smaller: slow is not down, and smaller is done in time."""
_CANDIDATES: Final = 8
"""Messages kept in hand to probe with; another one each time, so that none of them can hold the gate."""
_LONGEST_IN_HAND_SECONDS: Final = 300.0
_JUST_MS: Final = 1000
"""What was stored so short a while ago shows that the store can write."""
_OUTCOMES: Final = {Written.STORED: Outcome.STORED, Written.DUPLICATE: Outcome.DUPLICATE}
_ASK_SECONDS: Final = 2.0
"""How long a message to probe with is waited for before it is sure that none waits in the broker."""


class Storing:
    """Brings messages into the store, or into the waiting room. Lives as long as one broker session."""

    def __init__(
        self,
        *,
        store: ActivityWriter,
        gate: Gate,
        copies: Copies,
        settlement: Settlement,
        reading: Reading,
        share: StoreShare,
        clock: Clock,
        reporter: Reporter,
        crash: Crash,
        bundle: int,
    ) -> None:
        """Write at most *bundle* messages at once; what is in hand counts towards *share*."""
        self._store = store
        self._gate = gate
        self._copies = copies
        self._settlement = settlement
        self._reading = reading
        self._clock = clock
        self._reporter = reporter
        self._share = share
        self._parsed_bytes = 0
        self._full_bundle = bundle
        self._last_stored_at = 0
        self._may_keep = _CANDIDATES
        self._candidates: deque[Inbound] = deque()
        self._suspects: deque[tuple[Inbound, Failure]] = deque()
        """Candidates that failed for a reason that may be their own; others are tried before they are again."""
        self._asked_at: float | None = None
        self.is_followed: Callable[[Delivery], bool] | None = None
        """Where order is kept: whether a later one of its key waits for the end of a delivery."""
        self._lane: Lane[Inbound] = Lane(
            "store",
            self._write,
            bundle=bundle,
            at_once=2,
            size_of=lambda inbound: inbound.size,
            bundle_bytes=_BUNDLE_BYTES,
            on_bug=crash.report,
            queued_at=lambda inbound: inbound.queued_at,
        )
        share.join(self._lane, patience=_BEHIND_SECONDS, let_go=self._let_wait)

    def __len__(self) -> int:
        """Messages in hand that are to be written."""
        return len(self._lane) + self._kept

    @property
    def _kept(self) -> int:
        return len(self._candidates) + len(self._suspects)

    def start(self) -> None:
        """Go on with an outage that the session before this one left behind."""
        self._gate.resume(self._probe)

    def add(self, inbounds: Sequence[Inbound]) -> None:
        """Store *inbounds* soon, or let them wait in the broker. Each is translated and has its activity."""
        if not self._gate.is_open:
            self._hold(inbounds)
            return
        if self._share.is_behind(self._lane):
            for inbound in inbounds:
                if not inbound.has_waited:
                    self._wait(inbound, BEHIND)
            inbounds = [inbound for inbound in inbounds if inbound.has_waited]
        self._take(inbounds)
        self._share.watch()

    @property
    def is_usable(self) -> bool:
        """Whether the store takes writes, as far as known."""
        return self._gate.is_open

    @property
    def room(self) -> int:
        """How many messages from the waiting room may be brought now; in an outage one, if the probe needs it."""
        if not self._gate.is_open:
            return int(self._asked_at is not None)
        return max(0, max(1, self._share.most // 2) - len(self._share) - self._kept)

    def keep_nothing(self) -> None:
        """Keep nothing in hand for probing any more: in an outage everything waits in the broker. For a clean stop."""
        self._may_keep = 0
        self._release(lambda _inbound: True)

    def release(self, delivery: Delivery) -> None:
        """Let *delivery* wait in the broker if it is kept to probe with: a later one of its key has come."""
        if self._kept:
            self._release(lambda inbound: inbound.delivery is delivery)

    async def stop(self) -> None:
        """Abandon all that is in progress, the probe included; unsettled deliveries come again."""
        await self._lane.cancel()
        await self._gate.stop()
        self._take_kept()

    def _take(self, inbounds: Sequence[Inbound]) -> None:
        now = self._clock.monotonic()
        for inbound in inbounds:
            inbound.queued_at = now
            self._keep_small(inbound)
        self._lane.add(inbounds)

    def _let_wait(self, inbounds: list[Inbound]) -> None:
        """Let *inbounds*, taken out of the lane, wait in the broker; those that waited there stay."""
        for inbound in inbounds:
            if not inbound.has_waited:
                self._forget_parsed([inbound])
                self._wait(inbound, BEHIND)
        self._lane.add([inbound for inbound in inbounds if inbound.has_waited])

    # -- write ----------------------------------------------------------------------------------------------------

    async def _write(self, inbounds: list[Inbound]) -> None:
        """Store a bundle; when the store cannot be used, all of it is held, and no attempt is spent."""
        self._forget_parsed(inbounds)
        if not self._gate.is_open:
            self._hold(inbounds)
            return
        started = self._clock.monotonic()
        try:
            results = await self._store_all(inbounds)
        except AdapterError as error:
            if self._gate.holds(error.failure):
                self._shrink()
                self._gate.close(error.failure, self._probe)
                waiting = self._lane.take_waiting()
                self._forget_parsed(waiting)
                self._hold([*inbounds, *waiting])
            else:
                self._fail_all(inbounds, error.failure)
            return
        except Exception as error:  # noqa: BLE001 - a bug in the adapter: each message is tried alone, later
            self._fail_all(inbounds, classify(error, Stage.STORE))
            return
        seconds = self._clock.monotonic() - started
        self._adapt(len(inbounds), seconds)
        counts = self._end_all(inbounds, results)
        self._reporter.stage("store", seconds)
        self._reporter.batch("store", len(inbounds), seconds, **counts)

    async def _store_all(self, inbounds: Sequence[Inbound]) -> list[StoreResult]:
        activities = [self._reading.activity_of(inbound) for inbound in inbounds]
        return await self._store.store(activities, self._clock.now_ms())

    def _end_all(self, inbounds: Sequence[Inbound], results: Sequence[StoreResult]) -> dict[str, int]:
        well: dict[Written, list[Inbound]] = {written: [] for written in Written}
        if any(isinstance(result, Written) for result in results):
            self._last_stored_at = self._clock.now_ms()
        for inbound, result in zip(inbounds, results, strict=True):
            match result:
                case Written():
                    well[result].append(inbound)
                case Refused(failure):
                    self._copies.retry_or_give_up(inbound.delivery, inbound.identity, failure)
                case Unproven(failure):
                    self._suspect(inbound, failure)
        for written, ended in well.items():
            self._settlement.settle_all(ended, _OUTCOMES[written])
        return {written.value: len(ended) for written, ended in well.items()}

    def _suspect(self, inbound: Inbound, failure: Failure) -> None:
        """Find out whose fault a failure is that nobody knows: the message's, or the store's.

        It waits once. Fails it again and another was stored meanwhile, the fault is its own. Was none stored meanwhile,
        but one just before, it comes back later at no cost: until then there is evidence. Otherwise the store is
        suspected: the gate closes, and the next message that is stored opens it.
        """
        failed_before = inbound.suspected_since
        if failed_before is None:
            self._wait(inbound, failure, suspected=True)
        elif self._last_stored_at > failed_before:
            self._end_failed(inbound, failure)
        elif 0 <= self._clock.now_ms() - self._last_stored_at < _JUST_MS:
            self._copies.come_back_later(inbound.delivery, inbound.identity, failure)
        else:
            suspected = Failure.of(Code.STORE_UNAVAILABLE, failure.detail, dependency=Dependency.STORE)
            self._gate.close(suspected, self._probe)
            self._hold([inbound])

    def _end_failed(self, inbound: Inbound, failure: Failure) -> None:
        """End a message that failed while another was stored: the fault is its own, unless its failure says outage."""
        is_outage = self._gate.holds(failure)
        end = self._copies.come_back_later if is_outage else self._copies.retry_or_give_up
        end(inbound.delivery, inbound.identity, failure)

    # -- probe ----------------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Store messages that wait, one by one, until one is new; raise while the store cannot be used.

        What it holds already, or refuses, proves nothing: a store with a full disk says that, too.
        """
        self._release_old()
        if not self._candidates:
            self._ask_for_candidate()
        while self._candidates:
            if await self._store_candidate(self._candidates.popleft()) is Written.STORED:
                await self._end_suspects()
                break
        waiting = self._take_kept()
        asyncio.get_running_loop().call_soon(self.add, waiting)  # when the gate is open

    async def _end_suspects(self) -> None:
        """Try again those that failed before another was stored: what fails now has a fault of its own."""
        while self._suspects:
            suspect, _ = self._suspects.popleft()
            result = await self._store_alone(suspect)
            if isinstance(result, Unproven):
                self._end_failed(suspect, result.failure)
            else:
                self._end_all([suspect], [result])

    def _ask_for_candidate(self) -> None:
        """Have one message brought. Until it is there, take a suspect; without one, raise, so that it has time to come.

        If none comes, the next one shall be the probe.
        """
        now = self._clock.monotonic()
        self._asked_at = self._asked_at or now
        if self._suspects:
            self._candidates.append(self._suspects.popleft()[0])
        elif now - self._asked_at < _ASK_SECONDS:
            raise AdapterError(self._gate.failure or BEHIND)
        else:
            self._asked_at = None

    async def _store_candidate(self, candidate: Inbound) -> StoreResult:
        result = await self._store_alone(candidate)
        if isinstance(result, Unproven):
            self._suspects.append((candidate, result.failure))
            raise AdapterError(result.failure)
        self._end_all([candidate], [result])
        return result

    async def _store_alone(self, inbound: Inbound) -> StoreResult:
        try:
            (result,) = await self._store_all([inbound])
        except BaseException:
            self._hold([inbound])
            raise
        return result

    def _release_old(self) -> None:
        """Let wait in the broker what has been in hand for long: it would take the delivery from us."""
        oldest = self._clock.monotonic() - _LONGEST_IN_HAND_SECONDS
        self._release(lambda inbound: inbound.delivery.received_at < oldest)

    def _release(self, is_meant: Callable[[Inbound], bool]) -> None:
        candidates, self._candidates = self._candidates, deque()
        suspects, self._suspects = self._suspects, deque()
        for inbound in candidates:
            if is_meant(inbound):
                self._wait(inbound, self._gate.failure or BEHIND)
            else:
                self._candidates.append(inbound)
        for inbound, failure in suspects:
            if is_meant(inbound):
                self._wait(inbound, failure, suspected=True)
            else:
                self._suspects.append((inbound, failure))

    def _take_kept(self) -> list[Inbound]:
        kept = [*self._candidates, *(inbound for inbound, _ in self._suspects)]
        self._candidates.clear()
        self._suspects.clear()
        return kept

    # -- wait -----------------------------------------------------------------------------------------------------

    def _hold(self, inbounds: Sequence[Inbound]) -> None:
        """Keep a few messages to probe with; the others wait in the broker, suspects before those that were not tried.

        What the end of a session brought back is not kept again: every end counts towards the broker's limit, and a
        copy counts from zero.
        """
        for inbound in inbounds:
            if self._is_to_be_kept(inbound):
                if self._kept >= self._may_keep:
                    suspect, failure = self._suspects.popleft()
                    self._wait(suspect, failure, suspected=True)
                inbound.drop_parsed()
                self._candidates.append(inbound)
                self._asked_at = None
            else:
                self._wait(inbound, self._gate.failure or BEHIND)

    def _is_to_be_kept(self, inbound: Inbound) -> bool:
        delivery = inbound.delivery
        if len(self._candidates) >= self._may_keep:
            return False
        if self.is_followed is None:
            return not delivery.prior_deliveries
        most = MOST_ENDS if inbound.has_waited else 1  # what has waited stays in hand all the same
        return delivery.prior_deliveries < most and not self.is_followed(delivery)

    def _wait(self, inbound: Inbound, failure: Failure, *, suspected: bool = False) -> None:
        because = inbound.stored_because
        self._copies.wait(inbound.delivery, inbound.identity, failure, suspected=suspected, because=because)

    def _fail_all(self, inbounds: Sequence[Inbound], failure: Failure) -> None:
        for inbound in inbounds:
            self._copies.retry_or_give_up(inbound.delivery, inbound.identity, failure)

    # -- size -----------------------------------------------------------------------------------------------------

    def _keep_small(self, inbound: Inbound) -> None:
        """Drop the parsed message when too many wait: it takes many times the memory of its bytes."""
        if inbound.activity is None:
            return
        if self._parsed_bytes + inbound.size > _PARSED_BYTES:
            inbound.drop_parsed()
        else:
            self._parsed_bytes += inbound.size

    def _forget_parsed(self, inbounds: Sequence[Inbound]) -> None:
        """Count the parsed messages of *inbounds* no more: they have left the lane."""
        self._parsed_bytes -= sum(inbound.size for inbound in inbounds if inbound.activity is not None)

    def _adapt(self, size: int, seconds: float) -> None:
        if seconds > _SLOW_SECONDS:
            self._shrink()
        elif size >= self._lane.bundle:
            self._lane.bundle = min(self._full_bundle, self._lane.bundle + _SMALLEST_BUNDLE)

    def _shrink(self) -> None:
        self._lane.bundle = max(min(_SMALLEST_BUNDLE, self._full_bundle), self._lane.bundle // 2)
