"""Brings batches of deliveries to their outcomes; the picture is in the package's docstring.

The order is always: effect proven, then settled. What cannot be proven stays unsettled and comes again; that is
harmless because event ids are stable. Nothing here knows AMQP or MongoDB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.cim import Identity, Rejected, parse
from worker.codes import Code, Stage
from worker.dead_letters.provenance import strip_reserved_headers
from worker.failure import Dependency, Failure, OperatorFault, StoreUnavailable, classify
from worker.flow.lane import Lane
from worker.outcome import Outcome
from worker.pipeline.inbound import HubEvent, Inbound
from worker.pipeline.ports import Refused, Unproven, Written
from worker.pipeline.translate import Destination, route, translate
from worker.ports import Confirmation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from worker.flow.gate import Gate
    from worker.flow.tasks import Crash
    from worker.pipeline.copies import Copies
    from worker.pipeline.finder import ConversationFinder
    from worker.pipeline.ports import ActivityWriter
    from worker.pipeline.senders import Senders
    from worker.pipeline.settlement import Settlement
    from worker.pipeline.translate import Activity
    from worker.ports import Clock, Delivery, EventPublisher, Reporter


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """What bounds the pipeline. Sizes in bytes."""

    max_message_bytes: int
    bundle: int
    bundle_bytes: int


class Pipeline:
    """Brings deliveries to their one outcome. Lives as long as one broker session; `stop` drops what is unsettled."""

    def __init__(
        self,
        *,
        senders: Senders,
        finder: ConversationFinder,
        publisher: EventPublisher,
        store: ActivityWriter,
        gate: Gate,
        copies: Copies,
        settlement: Settlement,
        limits: PipelineLimits,
        clock: Clock,
        reporter: Reporter,
        crash: Crash,
    ) -> None:
        self._senders = senders
        self._finder = finder
        self._publisher = publisher
        self._store = store
        self._gate = gate
        self._copies = copies
        self._settlement = settlement
        self._limits = limits
        self._clock = clock
        self._reporter = reporter
        self._crash = crash
        self._may_wait = 0
        self._store_lane = self._lane("store", self._write, at_once=2)
        self._lookup_lane = self._lane("lookup", self._look_up_late, at_once=1)

    async def process(self, batch: Sequence[Delivery]) -> None:
        """Bring a batch on its way.

        On return every event for the hub is settled or of unknown effect, and the rest is in its lane. Never raises
        for a message; cancel it to abandon the batch.
        """
        started = self._clock.monotonic()
        now = self._clock.now_ms()
        live: list[HubEvent] = []
        for_store: list[Inbound] = []
        to_look_up: list[Inbound] = []
        for delivery in batch:  # each to its end while it is in the processor's cache, and its message gone then
            inbound = self._read(delivery, now)
            if inbound is None:
                continue
            if not self._finder.remembers(inbound):
                to_look_up.append(inbound)
            elif event := self._event(inbound, now):
                live.append(event)
            elif inbound.activity is not None:
                for_store.append(inbound)
        waiting = 0
        if to_look_up:
            found, waiting = await self._look_up(to_look_up)
            found_live, found_for_store = self._route(found)
            if found_live:
                in_order = {id(delivery): place for place, delivery in enumerate(batch)}
                live = sorted(live + found_live, key=lambda event: in_order[id(event.delivery)])
            for_store += found_for_store
        await self._publish(live)
        self._to_store(for_store)
        self._reporter.batch(
            "ingress",
            len(batch),
            self._clock.monotonic() - started,
            hub=len(live),
            store=len(for_store),
            waiting=waiting,
        )

    def set_window(self, window: int) -> None:
        """Know how many deliveries the consumer may hold: half of them may wait for the store in an outage."""
        self._may_wait = window // 2

    async def stop(self) -> None:
        """Abandon all that is in progress; unsettled deliveries come again."""
        await self._copies.cancel()
        for lane in (self._store_lane, self._lookup_lane):
            await lane.cancel()

    # -- read -----------------------------------------------------------------------------------------------------

    def _read(self, delivery: Delivery, now: int) -> Inbound | None:
        """Parse and validate; what is invalid goes to the dead letters and never further."""
        strip_reserved_headers(delivery, self._senders.own_user)
        try:
            message = parse(delivery.body, received_at=now, max_bytes=self._limits.max_message_bytes)
            problem = None if isinstance(message, Rejected) else self._senders.problem(message, delivery)
        except Exception as error:  # noqa: BLE001 - a bug in the contract must not stop the neighbours
            self._copies.retry_or_give_up(delivery, Identity(), classify(error, Stage.VALIDATE))
            return None
        if isinstance(message, Rejected):
            self._copies.dead_letter(delivery, message.identity, Failure.of_problems(message.problems))
            return None
        if problem is not None:
            self._copies.dead_letter(delivery, message.identity, Failure.of_problems((problem,)))
            return None
        return Inbound(delivery, now, message)

    def _read_again(self, event: HubEvent) -> Inbound:
        """Return the inbound message an event was made of, with the very same activity."""
        message = parse(event.delivery.body, received_at=event.read_at, max_bytes=self._limits.max_message_bytes)
        if isinstance(message, Rejected):
            msg = "a message that was valid is not any more"
            raise AssertionError(msg)  # noqa: TRY004 - a bug of ours
        inbound = Inbound(event.delivery, event.read_at, message, event.conversation)
        inbound.activity = self._translate(inbound, event.translated_at)
        return inbound

    # -- look up --------------------------------------------------------------------------------------------------

    async def _look_up(self, inbounds: list[Inbound]) -> tuple[list[Inbound], int]:
        """Ask the registry; return what can go on, and how many have to wait for its answer.

        While the registry is away, a message that names its conversation goes on as if unknown: the hub decides.
        """
        try:
            if await self._finder.ask_registry(inbounds):
                return inbounds, 0
        except Exception as error:  # noqa: BLE001 - a record nobody can read must not stop other conversations
            self._fail_all(inbounds, classify(error, Stage.ROUTE))
            return [], 0
        waiting = [inbound for inbound in inbounds if inbound.message.conversation_id is None]
        self._within_bounds(self._lookup_lane, waiting)
        return [inbound for inbound in inbounds if inbound.message.conversation_id is not None], len(waiting)

    async def _look_up_late(self, inbounds: list[Inbound]) -> None:
        """Bring messages on their way whose conversation could not be looked up; they wait, and spend no attempt."""
        await self._gate.wait()
        try:
            answered = await self._finder.ask_registry(inbounds)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail_all(inbounds, classify(error, Stage.ROUTE))
            return
        if not answered:
            self._within_bounds(self._lookup_lane, inbounds + self._lookup_lane.take_waiting(), in_hand=len(inbounds))
            return
        live, for_store = self._route(inbounds)
        await self._publish(live)
        self._to_store(for_store)

    # -- translate, route, publish --------------------------------------------------------------------------------

    def _route(self, inbounds: Sequence[Inbound]) -> tuple[list[HubEvent], list[Inbound]]:
        """Translate each and return the events for the hub and what goes to the store."""
        now = self._clock.now_ms()
        live = [event for inbound in inbounds if (event := self._event(inbound, now))]
        return live, [inbound for inbound in inbounds if inbound.activity is not None]

    def _event(self, inbound: Inbound, now: int) -> HubEvent | None:
        """Return the event to publish, or None: then it goes to the store if it has an activity, else it failed."""
        try:
            activity = self._translate(inbound, now)
            if route(inbound.message, inbound.conversation) is Destination.HUB:
                return HubEvent.of(inbound, activity, now)
        except Exception as error:  # noqa: BLE001 - a bug must not stop the neighbours
            self._copies.retry_or_give_up(inbound.delivery, inbound.identity, classify(error, Stage.TRANSLATE))
            return None
        inbound.activity = activity
        return None

    def _translate(self, inbound: Inbound, now: int) -> Activity:
        return translate(inbound.message, inbound.conversation, now=now, body=inbound.delivery.body)

    async def _publish(self, events: Sequence[HubEvent]) -> None:
        """Publish to the hub; what nobody takes goes to the store, what the broker refuses is retried."""
        if not events:
            return
        confirmations = await self._publisher.publish([event.outgoing for event in events])
        returned = []
        for event, confirmation in zip(events, confirmations, strict=True):
            if confirmation is Confirmation.CONFIRMED:
                self._settlement.settle(event.delivery, Outcome.PUBLISHED)
            elif confirmation is Confirmation.RETURNED:
                self._finder.forget(event.outgoing.routing_key)
                returned.append(self._read_again(event))
            elif confirmation is Confirmation.NACKED:
                identity = self._read_again(event).identity
                self._copies.retry_or_give_up(event.delivery, identity, Failure.of(Code.PUBLISH_REJECTED))
        self._to_store(returned)

    # -- store ----------------------------------------------------------------------------------------------------

    def _to_store(self, inbounds: list[Inbound]) -> None:
        self._within_bounds(self._store_lane, inbounds)

    def _within_bounds(self, lane: Lane[Inbound], inbounds: list[Inbound], *, in_hand: int = 0) -> None:
        """Queue what needs the store. In an outage the first wait here, unacknowledged; the rest in the broker.

        Without that bound they would fill the window and stop live traffic, which does not need the store at all.
        *in_hand* of them are counted in their lane already.
        """
        if not self._gate.is_open:
            held = len(self._store_lane) + len(self._lookup_lane) - in_hand
            room = max(0, self._may_wait - held)
            inbounds, overflow = inbounds[:room], inbounds[room:]
            failure = self._gate.failure or Failure.of(Code.STORE_UNAVAILABLE, dependency=Dependency.STORE)
            for inbound in overflow:
                self._copies.retry_or_give_up(inbound.delivery, inbound.identity, failure)
        lane.add(inbounds)

    async def _write(self, inbounds: list[Inbound]) -> None:
        """Store a bundle. While the store is away the bundle waits, and spends no attempt."""
        started = self._clock.monotonic()
        await self._gate.wait()
        try:
            results = await self._store.store([_activity(inbound) for inbound in inbounds], self._clock.now_ms())
        except (StoreUnavailable, OperatorFault) as error:
            self._gate.close(error.failure)
            self._within_bounds(self._store_lane, inbounds + self._store_lane.take_waiting(), in_hand=len(inbounds))
            return
        except Exception as error:  # noqa: BLE001 - a bug in the adapter: each message is tried alone, later
            self._fail_all(inbounds, classify(error, Stage.STORE))
            return
        counts = {written.value: 0 for written in Written}
        for inbound, result in zip(inbounds, results, strict=True):
            if isinstance(result, Refused | Unproven):
                self._copies.retry_or_give_up(inbound.delivery, inbound.identity, result.failure)
            elif result is Written.CONFLICT:
                self._copies.dead_letter(inbound.delivery, inbound.identity, Failure.of(Code.PAYLOAD_CONFLICT))
            else:
                counts[result.value] += 1
                outcome = Outcome.STORED if result is Written.STORED else Outcome.DUPLICATE
                self._settlement.settle(inbound.delivery, outcome)
        self._reporter.batch("store", len(inbounds), self._clock.monotonic() - started, **counts)

    def _fail_all(self, inbounds: Sequence[Inbound], failure: Failure) -> None:
        for inbound in inbounds:
            self._copies.retry_or_give_up(inbound.delivery, inbound.identity, failure)

    def _lane(
        self, name: str, handle: Callable[[list[Inbound]], Coroutine[None, None, None]], *, at_once: int
    ) -> Lane[Inbound]:
        return Lane(
            name,
            handle,
            bundle=self._limits.bundle,
            at_once=at_once,
            size_of=lambda inbound: len(inbound.delivery.body),
            bundle_bytes=self._limits.bundle_bytes,
            on_bug=self._crash.report,
        )


def _activity(inbound: Inbound) -> Activity:
    if inbound.activity is None:
        msg = "translated before routed"
        raise AssertionError(msg)
    return inbound.activity
