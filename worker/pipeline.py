"""Everything that can happen to a batch of deliveries, on one screen: `Pipeline.process`.

    bytes → parse → CimMessage → look up → translate → route → hub ──return──▶ store → settle
              └───────── invalid ──────────────────────────────────▶ dead letters

The order is always: effect proven, then settle. What cannot be proven stays unsettled and comes again; that is
harmless because event ids are stable. Nothing here knows AMQP or MongoDB.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.activity import Destination, route, translate
from worker.cim import CimMessage, Rejected, parse
from worker.codes import Code, Stage
from worker.conversation_finder import ConversationFinder
from worker.copies import Copies
from worker.dead_letters.envelope import Identity, Reason, forget_pretence
from worker.failure import Dependency, Failure, OperatorFault, StoreUnavailable, classify, fingerprint
from worker.lane import Lane
from worker.outcome import Outcome
from worker.ports import Receipt
from worker.senders import Senders
from worker.store_result import Refused, Written
from worker.work import HubEvent, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from worker.accounts import Accounts, Clock
    from worker.activity import Activity
    from worker.conversation_cache import ConversationCache
    from worker.gate import Gate
    from worker.ports import ActivityWriter, ConversationLookup, Delivery, EventPublisher
    from worker.retry import RetryBudget, RetryPolicy


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """What bounds the pipeline. Sizes in bytes."""

    max_message_bytes: int
    bundle: int
    bundle_bytes: int
    lookup_timeout_seconds: float
    own_user: str | None = None
    """The worker's own broker user, set when senders are checked: only its copies are believed about their origin."""


class Pipeline:
    """Brings deliveries to their one outcome. Lives as long as one broker session; `stop` drops what is unsettled."""

    def __init__(
        self,
        *,
        registry: ConversationLookup,
        store: ActivityWriter,
        publisher: EventPublisher,
        gate: Gate,
        cache: ConversationCache,
        retry: RetryPolicy,
        budget: RetryBudget,
        sender_users: Mapping[str, frozenset[str]],
        limits: PipelineLimits,
        clock: Clock,
        accounts: Accounts,
        settle: Callable[[Any], None],
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._gate = gate
        self._finder = ConversationFinder(
            registry=registry, cache=cache, gate=gate, timeout_seconds=limits.lookup_timeout_seconds, clock=clock
        )
        self._senders = Senders(sender_users, limits.own_user)
        self._limits = limits
        self._clock = clock
        self._accounts = accounts
        self._settle = settle
        self._may_wait = 0
        self.bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with the exception that nobody foresaw: its deliveries are in no lane, so the session has to end."""
        self._copies = Copies(
            publisher=publisher,
            retry=retry,
            budget=budget,
            clock=clock,
            accounts=accounts,
            settle=settle,
            new_id=new_id,
            bundle=limits.bundle,
            bundle_bytes=limits.bundle_bytes,
            on_bug=self.fail,
        )
        self._store_lane = self._lane("store", self._write, at_once=2)
        self._waiting_lane = self._lane("waiting", self._resolve_late, at_once=1)

    async def process(self, batch: Sequence[Delivery]) -> None:
        """Bring a batch on its way.

        On return every event for the hub is settled or of unknown effect, and the rest is in its lane. Never raises
        for a message; cancel it to abandon the batch.
        """
        started = self._clock.monotonic()
        now = self._clock.now_ms()
        live: list[HubEvent] = []
        stored: list[Work] = []
        missing: list[Work] = []
        for delivery in batch:  # each to its end while it is in the processor's cache, and its message gone then
            work = self._read(delivery, started, now)
            if work is not None:
                if self._finder.remembers(work):
                    self._translate_and_route(work, now, live, stored)
                else:
                    missing.append(work)
        waiting = await self._look_up_and_route(missing, live, stored) if missing else 0
        if missing and live:
            in_order = {id(delivery): place for place, delivery in enumerate(batch)}
            live.sort(key=lambda event: in_order[id(event.delivery)])
        await self._publish(live)
        self._to_store(stored)
        self._accounts.batch(
            "ingress",
            len(batch),
            self._clock.monotonic() - started,
            hub=len(live),
            store=len(stored),
            waiting=waiting,
        )

    def fit(self, window: int) -> None:
        """Know how many deliveries the consumer may hold: half of them may wait for the store in an outage."""
        self._may_wait = window // 2

    def fail(self, error: BaseException) -> None:
        """Report an exception that left a batch or a bundle behind."""
        if not self.bug.done():
            self.bug.set_exception(error)

    async def stop(self) -> None:
        """Abandon all that is in work; unsettled deliveries come again."""
        for lane in (self._copies, self._store_lane, self._waiting_lane):
            await lane.cancel()

    # -- read -----------------------------------------------------------------------------------------------------

    def _read(self, delivery: Delivery, started: float, now: int) -> Work | None:
        """Parse and validate; what is invalid goes to the dead letters and never further."""
        received_at = getattr(delivery, "received_at", started)
        forget_pretence(delivery, self._limits.own_user)
        try:
            message = parse(delivery.body, received_at=now, max_bytes=self._limits.max_message_bytes)
            problem = self._senders.problem(message, delivery) if isinstance(message, CimMessage) else None
        except Exception as error:  # noqa: BLE001 - a bug in the contract must not stop the neighbours
            self._copies.fail(delivery, received_at, Identity(), classify(error, Stage.VALIDATE))
            return None
        if isinstance(message, Rejected):
            identity = Identity(message.sender_id, message.sender_name, message.message_id, message.conversation_id)
            self._copies.bury(delivery, received_at, identity, Reason.of_problems(message.problems))
            return None
        work = Work(delivery, received_at, now, message)
        if problem is not None:
            self._copies.bury(delivery, received_at, work.identity, Reason.of_problems((problem,)))
            return None
        return work

    def _read_again(self, event: HubEvent) -> Work:
        """Return the work an event was made of, with the very same activity."""
        message = parse(event.delivery.body, received_at=event.read_at, max_bytes=self._limits.max_message_bytes)
        if isinstance(message, Rejected):
            msg = "a message that was valid is not any more"
            raise AssertionError(msg)  # noqa: TRY004 - a bug of ours
        work = Work(event.delivery, event.received_at, event.read_at, message, event.conversation)
        work.activity = self._translate(work, event.translated_at)
        return work

    # -- look up --------------------------------------------------------------------------------------------------

    async def _look_up_and_route(self, works: list[Work], live: list[HubEvent], stored: list[Work]) -> int:
        """Ask the registry about works it has to be asked for; return how many have to wait for its answer.

        While the registry is away, a message that names its conversation goes on as if unknown: the hub decides.
        """
        waiting: list[Work] = []
        try:
            if not await self._finder.ask_registry(works):
                waiting = [work for work in works if work.message.conversation_id is None]
                works = [work for work in works if work.message.conversation_id is not None]
        except Exception as error:  # noqa: BLE001 - a record nobody can read must not stop the works of other conversations
            self._fail_all(works, classify(error, Stage.ROUTE))
            return 0
        self._within_bounds(self._waiting_lane, waiting)
        now = self._clock.now_ms()
        for work in works:
            self._translate_and_route(work, now, live, stored)
        return len(waiting)

    async def _resolve_late(self, works: list[Work]) -> None:
        """Bring works on their way whose conversation could not be looked up; they wait, and spend no attempt."""
        await self._gate.wait()
        try:
            answered = await self._finder.ask_registry(works)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail_all(works, classify(error, Stage.ROUTE))
            return
        if not answered:
            self._within_bounds(self._waiting_lane, works + self._waiting_lane.take_waiting(), in_hand=len(works))
            return
        live: list[HubEvent] = []
        stored: list[Work] = []
        now = self._clock.now_ms()
        for work in works:
            self._translate_and_route(work, now, live, stored)
        await self._publish(live)
        self._to_store(stored)

    # -- translate, route, publish --------------------------------------------------------------------------------

    def _translate_and_route(self, work: Work, now: int, live: list[HubEvent], stored: list[Work]) -> None:
        """Add the work to what goes to the hub or to what goes to the store."""
        try:
            activity = self._translate(work, now)
            if route(work.message, work.conversation) is Destination.HUB:
                live.append(HubEvent.of(work, activity, now))
                return
        except Exception as error:  # noqa: BLE001 - a bug must not stop the neighbours
            self._copies.fail(work.delivery, work.received_at, work.identity, classify(error, Stage.TRANSLATE))
            return
        work.activity = activity
        stored.append(work)

    def _translate(self, work: Work, now: int) -> Activity:
        return translate(work.message, work.conversation, now=now, body=work.delivery.body)

    async def _publish(self, events: Sequence[HubEvent]) -> None:
        """Publish to the hub; what nobody takes goes to the store, what the broker refuses is retried."""
        if not events:
            return
        receipts = await self._publisher.publish([event.outgoing for event in events])
        returned = []
        for event, receipt in zip(events, receipts, strict=True):
            if receipt is Receipt.CONFIRMED:
                self._finish(event.delivery, event.received_at, Outcome.PUBLISHED)
            elif receipt is Receipt.RETURNED:
                self._finder.forget(event.outgoing.routing_key)
                returned.append(self._read_again(event))
            elif receipt is Receipt.NACKED:
                self._copies.fail(event.delivery, event.received_at, self._read_again(event).identity, _nacked())
        self._to_store(returned)

    # -- store ----------------------------------------------------------------------------------------------------

    def _to_store(self, works: list[Work]) -> None:
        self._within_bounds(self._store_lane, works)

    def _within_bounds(self, lane: Lane[Work], works: list[Work], *, in_hand: int = 0) -> None:
        """Queue works that need the store. In an outage the first wait here, unacknowledged; the rest in the broker.

        Without that bound they would fill the window and stop live traffic, which does not need the store at all.
        *in_hand* of the works are counted in their lane already.
        """
        if not self._gate.is_open:
            held = len(self._store_lane) + len(self._waiting_lane) - in_hand
            room = max(0, self._may_wait - held)
            works, overflow = works[:room], works[room:]
            for work in overflow:
                failure = self._gate.failure or _failure(Code.STORE_UNAVAILABLE, Dependency.STORE)
                self._copies.set_aside(work.delivery, work.received_at, work.identity, failure)
        lane.add(works)

    async def _write(self, works: list[Work]) -> None:
        """Store a bundle. While the store is away the bundle waits, and spends no attempt."""
        started = self._clock.monotonic()
        await self._gate.wait()
        try:
            results = await self._store.store([_activity(work) for work in works], self._clock.now_ms())
        except (StoreUnavailable, OperatorFault) as error:
            self._gate.close(error.failure)
            self._within_bounds(self._store_lane, works + self._store_lane.take_waiting(), in_hand=len(works))
            return
        except Exception as error:  # noqa: BLE001 - a bug in the adapter: each message is tried alone, later
            self._fail_all(works, classify(error, Stage.STORE))
            return
        counts = {written.value: 0 for written in Written}
        for work, result in zip(works, results, strict=True):
            if isinstance(result, Refused):
                self._copies.fail(work.delivery, work.received_at, work.identity, result.failure)
            elif result is Written.CONFLICT:
                self._copies.bury(work.delivery, work.received_at, work.identity, _conflict())
            else:
                counts[result.value] += 1
                outcome = Outcome.STORED if result is Written.STORED else Outcome.DUPLICATE
                self._finish(work.delivery, work.received_at, outcome)
        self._accounts.batch("store", len(works), self._clock.monotonic() - started, **counts)

    # -- endings --------------------------------------------------------------------------------------------------

    def _fail_all(self, works: Sequence[Work], failure: Failure) -> None:
        for work in works:
            self._copies.fail(work.delivery, work.received_at, work.identity, failure)

    def _finish(self, delivery: Delivery, received_at: float, outcome: Outcome) -> None:
        self._settle(delivery)
        self._accounts.settled(outcome, self._clock.monotonic() - received_at)

    def _lane(
        self, name: str, handle: Callable[[list[Work]], Coroutine[None, None, None]], *, at_once: int
    ) -> Lane[Work]:
        return Lane(
            name,
            handle,
            bundle=self._limits.bundle,
            at_once=at_once,
            size_of=lambda work: len(work.delivery.body),
            bundle_bytes=self._limits.bundle_bytes,
            on_bug=self.fail,
        )


def _activity(work: Work) -> Activity:
    if work.activity is None:
        msg = "translated before routed"
        raise AssertionError(msg)
    return work.activity


def _nacked() -> Failure:
    return _failure(Code.PUBLISH_REJECTED)


def _conflict() -> Reason:
    return Reason.of_failure(_failure(Code.PAYLOAD_CONFLICT))


def _failure(code: Code, dependency: Dependency | None = None) -> Failure:
    spec = code.spec
    return Failure(spec.failure_class, code, spec.stage, spec.meaning, fingerprint(code, spec.stage), dependency)
