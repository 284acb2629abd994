"""Keeps the registry and the conversation exchanges in step with what the platform says about its conversations.

Events are taken in bundles, each with the care that ingress takes: a careful window, the same decision between another
try and giving up, and nothing in hand while the store is away. Trying again happens here, for seconds: order does not
matter to the registry, so an event that waits holds up no other, not even of its own conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from worker import contract
from worker.cim import Identity
from worker.codes import Code, Disposition, FailureClass, Stage
from worker.conversations.conversation import KNOWN_STATES
from worker.conversations.lifecycle import Ignored, LifecycleChange, parse_lifecycle
from worker.dead_letters.envelope import dead_letter
from worker.dead_letters.provenance import attempt_of, strip_reserved_headers
from worker.dead_letters.reading import id_of_ours
from worker.failure import AdapterError, Failure, StoreRefused, classify
from worker.flow.backoff import Backoff
from worker.flow.confirmed import publish_until_confirmed
from worker.flow.window import Window, facts_of
from worker.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from worker.conversations.cache import ConversationCache
    from worker.conversations.convergence import Convergence
    from worker.conversations.conversation import ConversationRecord
    from worker.conversations.ports import Applied, EventQueue, RegistryPort, RetryDecision
    from worker.conversations.reaper import Reaper
    from worker.flow.gate import Gate
    from worker.ports import Clock, Delivery, EventPublisher, Outgoing, Reporter

_PREFETCH = 400
_BUNDLE = 200
_BUNDLE_BYTES = 16 * 1024 * 1024
_MAX_IN_HAND_SECONDS = 300.0
"""Nothing is held unacknowledged for longer; then it goes back to the queue, or its exchange to the reconciler."""
_OPERATOR_PAUSE_SECONDS = 10.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_STOP_SECONDS = 2.0
_MAX_SUSPECTS = 20
_MAX_STATES_SAID = 100
_REMINDER_SECONDS = 60.0
_NOBODY = "-"
"""An id to ask the registry for when only an answer is wanted."""


@dataclass(slots=True, eq=False)
class _Event:
    """One event in hand."""

    delivery: Delivery
    change: LifecycleChange
    since: float
    """Monotonic seconds when it was taken."""
    attempt: int = 1
    """Which try this is, as the retry decision counts."""
    pauses: int = 0
    due: float = 0.0
    """Monotonic seconds of its next try."""
    failed_after: int | None = None
    """How many writes had succeeded when the store failed it last for a reason nobody listed."""
    failure: Failure | None = None
    """That reason."""


class _StoreAwayError(Exception):
    """The store does not work: what is in hand has to go back."""


class LifecycleConsumer:
    """Consumes conversation events; of several consumers the broker lets one work. `run` ends only when cancelled."""

    def __init__(
        self,
        *,
        open_queue: Callable[[], Awaitable[EventQueue]],
        registry: RegistryPort,
        convergence: Convergence,
        reaper: Reaper,
        owe: Callable[[str], None],
        publisher: EventPublisher,
        gate: Gate,
        cache: ConversationCache,
        retry: RetryDecision,
        clock: Clock,
        reporter: Reporter,
        new_id: Callable[[], str],
        random: Callable[[], float],
        trusted: Collection[str | None] = (),
        on_end: Callable[[Delivery, Outcome, str | None], None] = lambda *_: None,
    ) -> None:
        """Take events from what *open_queue* opens; *owe* is called with a conversation whose exchange is to follow.

        Our headers are believed if one of the *trusted* users published them. *on_end* is told how each event ended
        (stored: in the registry), with the id of the letter it became.

        The *gate* outlives the broker session, so that a lost connection costs no event another delivery.
        """
        self._open_queue = open_queue
        self._registry = registry
        self._convergence = convergence
        self._reaper = reaper
        self._owe = owe
        self._publisher = publisher
        self._gate = gate
        self._cache = cache
        self._retry = retry
        self._clock = clock
        self._reporter = reporter
        self._new_id = new_id
        self._random = random
        self._trusted = trusted
        self._on_end = on_end
        self._round_pauses = self._backoff()
        self._window = Window(_PREFETCH, _BUNDLE_BYTES)
        self._looked_back = False
        self._later: list[_Event] = []
        self._letters: set[asyncio.Task[None]] = set()
        self._writes = 0
        self._states_said: set[str] = set()
        self._refusal_said_at: dict[Code, float] = {}

    async def run(self) -> None:
        """Apply events until cancelled. An exception that nobody foresaw ends a round, and the next one begins."""
        while True:
            try:
                # What is taken and goes back unhandled counts towards the broker's limit: ask before taking.
                await self._gate.until_done(lambda: self._registry.read((_NOBODY,)))
                await self._round()
            except Exception as error:  # noqa: BLE001 - nothing outside the pipeline may end a process
                self._interrupted(classify(error, Stage.ROUTE))
            await asyncio.sleep(self._round_pauses.next())

    def _interrupted(self, failure: Failure) -> None:
        if failure.failure_class is not FailureClass.OUTAGE:  # who watches the connection reports its end
            self._reporter.warn("conversation_events_interrupted", code=failure.code.value, reason=failure.detail)

    async def _round(self) -> None:
        """Consume until the consumer has ended or the store is away; leave nothing in hand."""
        queue = await self._open_queue()
        self._window = Window(_PREFETCH, _BUNDLE_BYTES)
        try:
            await queue.start(self._window.size)
            while not queue.cancelled.is_set():
                await self._wait(queue)
                taken = queue.take(_BUNDLE, _BUNDLE_BYTES)
                if events := self._due() + self._read(queue, taken):
                    self._look_back()
                    await self._handle(queue, events)
                if taken and self._window.observe(*facts_of(taken)):
                    await queue.resize(self._window.size)
                self._round_pauses.reset()
                self._check_waiting()
        except _StoreAwayError:
            pass
        finally:
            await self._leave(queue)

    def _look_back(self) -> None:
        """Once the broker lets us work: take over the deletions that the consumer before us did not live to do."""
        if not self._looked_back:
            self._looked_back = True
            self._reaper.look_back()

    async def _wait(self, queue: EventQueue) -> None:
        """Wait for a delivery, or for an event whose next try is due."""
        if not self._later:
            await queue.wait_for_arrival()
            return
        pause = min(event.due for event in self._later) - self._clock.monotonic()
        if pause > 0:
            await queue.wait_for(1, pause)

    def _due(self) -> list[_Event]:
        now = self._clock.monotonic()
        due = [event for event in self._later if event.due <= now]
        self._later = [event for event in self._later if event.due > now]
        return due

    def _check_waiting(self) -> None:
        """End the round when too much waits: what fails alike, or for long, is not for us to hold."""
        now = self._clock.monotonic()
        waiting = {event: event.failure for event in self._later if event.failure is not None}
        if len(waiting) > self._may_wait or any(now - event.since > _MAX_IN_HAND_SECONDS for event in waiting):
            self._close_gate(next(iter(waiting.values())), list(waiting))

    @property
    def _may_wait(self) -> int:
        return self._window.size // 2

    async def _leave(self, queue: EventQueue) -> None:
        """Hand everything back, once; a dying channel or a silent broker does not keep us."""
        self._later.clear()
        for letter in self._letters:
            letter.cancel()
        try:
            with contextlib.suppress(AdapterError, TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await queue.stop()
        finally:
            await queue.hand_back()
            await queue.close()

    # -- one bundle ---------------------------------------------------------------------------------------------------

    def _read(self, queue: EventQueue, deliveries: Sequence[Delivery]) -> list[_Event]:
        """Parse deliveries; what says nothing is settled, and what cannot be read goes to the dead letters."""
        events = []
        now, now_ms = self._clock.monotonic(), self._clock.now_ms()
        for delivery in deliveries:
            strip_reserved_headers(delivery, self._trusted)
            change = parse_lifecycle(delivery.body, received_at=now_ms)
            if isinstance(change, LifecycleChange):
                self._say_unknown_state(change)
                events.append(_Event(delivery, change, now))
            elif isinstance(change, Ignored):
                self._settle(queue, delivery)
            else:
                self._dead_letter(queue, delivery, change.identity, Failure.of_problems(change.problems))
        return events

    async def _handle(self, queue: EventQueue, events: Sequence[_Event]) -> None:
        """Apply a bundle: the registry first, then the exchanges; settle what is done."""
        started = self._clock.monotonic()
        results = await self._apply(events)
        applied = [one for one in results if not isinstance(one, Failure)]
        self._writes += sum(one.written for one in applied)
        changed = {one.record.id: one.record for one in applied}
        for conversation_id in changed:
            self._cache.forget(conversation_id)
        told = {event.change.conversation_id for event in events if event.change.state is not None}
        failures = await self._converge([record for key, record in changed.items() if key in told])
        for event, result in zip(events, results, strict=True):
            self._conclude(queue, event, result, failures)
        self._reporter.batch("conversation events", len(events), self._clock.monotonic() - started)

    async def _apply(self, events: Sequence[_Event]) -> list[Applied | Failure]:
        """Change the registry; an exception nobody foresaw is traced to its event by trying each alone."""
        try:
            return await self._registry.apply_each([event.change for event in events])
        except AdapterError as error:
            self._store_failed(error, events)
            raise
        except Exception as error:  # noqa: BLE001 - a bug must not stop the neighbours
            if len(events) == 1:
                return [classify(error, Stage.STORE)]
        return [(await self._apply([event]))[0] for event in events]

    async def _converge(self, records: Sequence[ConversationRecord]) -> Mapping[str, Failure]:
        if not records:
            return {}
        try:
            converged = await self._convergence.converge(records)
        except AdapterError as error:
            self._store_failed(error, ())
            raise
        for record in converged.records.values():
            self._reaper.changed(record)
            self._reporter.info(
                "conversation", conversation_id=record.id, state=record.state.value, active=record.active
            )
        return converged.failures

    def _store_failed(self, error: AdapterError, events: Sequence[_Event]) -> None:
        """Close the gate and end the round if the store is at fault."""
        if self._gate.holds(error.failure):
            self._close_gate(error.failure, events)

    def _close_gate(self, failure: Failure, events: Sequence[_Event]) -> NoReturn:
        self._gate.close(failure, _Probe(self._registry, events, self._clock).make)
        raise _StoreAwayError

    def _conclude(
        self, queue: EventQueue, event: _Event, result: Applied | Failure, refused: Mapping[str, Failure]
    ) -> None:
        conversation_id = event.change.conversation_id
        if isinstance(result, Failure):
            self._not_applied(queue, event, result)
        elif event.change.state is not None and conversation_id in refused:
            self._no_exchange(queue, event, refused[conversation_id])
        else:
            self._settle(queue, event.delivery)

    def _settle(self, queue: EventQueue, delivery: Delivery, letter: Outgoing | None = None) -> None:
        """End an event: it is in the registry, or dead as *letter*."""
        outcome = Outcome.STORED if letter is None else Outcome.DEAD
        self._on_end(delivery, outcome, None if letter is None else id_of_ours(letter.body, letter.headers or {}))
        queue.settle(delivery)

    def _no_exchange(self, queue: EventQueue, event: _Event, failure: Failure) -> None:
        """The registry knows, and the broker refused the exchange: this event waits, and no other."""
        now = self._clock.monotonic()
        self._say_refused(event.change.conversation_id, failure, now)
        held = failure.failure_class.disposition is Disposition.HELD
        if held and len(self._later) < self._may_wait and now - event.since < _MAX_IN_HAND_SECONDS:
            event.due = now + _OPERATOR_PAUSE_SECONDS
            self._later.append(event)
            return
        if held:
            self._owe(event.change.conversation_id)
        self._settle(queue, event.delivery)

    def _not_applied(self, queue: EventQueue, event: _Event, failure: Failure) -> None:
        """Try again later while there are tries left.

        A refusal for a reason nobody listed may be the store's fault: it spends no try until another event was written
        since.
        """
        now = self._clock.monotonic()
        unlisted = failure.failure_class is FailureClass.UNKNOWN and failure.stage is Stage.STORE
        if unlisted and event.failed_after in {None, self._writes}:
            event.failed_after, event.failure = self._writes, failure
        elif self._retry.gives_up(failure, event.attempt):
            event.delivery.properties.headers[contract.ATTEMPT] = event.attempt
            identity = Identity(conversation_id=event.change.conversation_id)
            self._dead_letter(queue, event.delivery, identity, failure)
            return
        elif failure.failure_class.disposition is Disposition.RETRIED:
            event.attempt += 1
        event.due = now + min(_LONGEST_PAUSE_SECONDS, 2**event.pauses) * (0.5 + self._random() / 2)
        event.pauses += 1
        self._later.append(event)

    def _dead_letter(self, queue: EventQueue, delivery: Delivery, identity: Identity, failure: Failure) -> None:
        """Give an event up, beside the rest: a dead-letter queue that is full or missing holds up no other event."""
        letter = self._publish_letter(queue, delivery, identity, failure)
        task = asyncio.create_task(letter, name="dead letter of a conversation event")
        self._letters.add(task)
        task.add_done_callback(self._letters.discard)

    async def _publish_letter(
        self, queue: EventQueue, delivery: Delivery, identity: Identity, failure: Failure
    ) -> None:
        letter = dead_letter(delivery, failure, identity, now=self._clock.now_ms(), copy_id=self._new_id())
        if await publish_until_confirmed(self._publisher, [letter], self._reporter):
            self._settle(queue, delivery, letter)
            self._reporter.letter(failure, identity, attempt_of(delivery), retry=False)

    # -- said once ----------------------------------------------------------------------------------------------------

    def _say_unknown_state(self, change: LifecycleChange) -> None:
        """Say once that a state is not one of ours; it counts as active."""
        state = None if change.state is None else change.state.value
        if state is None or state in KNOWN_STATES or state in self._states_said:
            return
        if len(self._states_said) < _MAX_STATES_SAID:
            self._states_said.add(state)
            self._reporter.warn("conversation_state_unknown", state=state, conversation_id=change.conversation_id)

    def _say_refused(self, conversation_id: str, failure: Failure, now: float) -> None:
        """Say once a minute that the broker refuses exchanges, and one of them."""
        if failure.failure_class is FailureClass.OUTAGE:  # who watches the connection reports its end
            return
        if now - self._refusal_said_at.get(failure.code, -_REMINDER_SECONDS) < _REMINDER_SECONDS:
            return
        self._refusal_said_at[failure.code] = now
        self._reporter.warn(
            "conversation_exchange_refused",
            conversation_id=conversation_id,
            code=failure.code.value,
            reason=failure.detail,
        )

    def _backoff(self) -> Backoff:
        return Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, random=self._random)


class _Probe:
    """Tries what the store failed, without the deliveries, another one each time; made by the closed gate."""

    def __init__(self, registry: RegistryPort, events: Iterable[_Event], clock: Clock) -> None:
        self._registry = registry
        self._changes = deque((event.change for event in events), maxlen=_MAX_SUSPECTS)
        self._clock = clock
        self._alone_until = clock.monotonic() + _MAX_IN_HAND_SECONDS

    async def make(self) -> None:
        """Return when the store took one, or refused it for a reason of its own; raise otherwise.

        One that is alone, and may itself be at fault, holds up the rest for minutes only.
        """
        if not self._changes:
            await self._registry.read((_NOBODY,))
            return
        self._changes.rotate()
        (result,) = await self._registry.apply_each([self._changes[0]])
        if not isinstance(result, Failure) or result.failure_class.disposition is Disposition.DEAD:
            return
        if len(self._changes) > 1 or self._clock.monotonic() < self._alone_until:
            raise StoreRefused(result)
