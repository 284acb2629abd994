"""One worker process: connect, preflight, work, leave, reconnect, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from worker import contract
from worker.addresses import address
from worker.codes import Code, FailureClass, Stage
from worker.failure import Dependency, Failure, classify
from worker.flow.reconnecting import Reconnecting
from worker.flow.tasks import Crash, cancel_and_wait
from worker.ops.checks import Check
from worker.ops.process import process_report
from worker.process.app import App
from worker.process.preflight import check_rights, check_topology, ensure_indexes, warn_of_hazards
from worker.process.progress import SILENCE, Progress, ProgressWatch
from worker.process.reports import ProcessReport
from worker.rabbit.alive import NodeWatch
from worker.rabbit.connection import Connection
from worker.rabbit.consumer import Consumer
from worker.rabbit.errors import (
    BrokerError,
    BrokerUnreachable,
    ConnectionLost,
    PublisherBlocked,
)
from worker.rabbit.partitions import PartitionConsumer
from worker.rabbit.publisher import Publisher
from worker.rabbit.topology import found_partitions

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from worker.flow.outage import Outage, Part
    from worker.flow.pause import PauseState
    from worker.ops.metrics import Report
    from worker.pipeline.moving import Mover
    from worker.process.session import IngressSession
    from worker.settings import Settings

T = TypeVar("T")

_SUMMARY_SECONDS = 10
_SECRETS_SECONDS = 3.0
"""How often files of secrets are read again."""
_INDEX_PAUSE_SECONDS = 30.0
"""Pause before indexes are looked at again, after the store went away meanwhile."""
_LONGEST_BLOCKED_SECONDS = 300.0
"""Nothing stays in hand longer behind a broker that blocks publishers; the next session takes nothing before."""
_BLOCKED_CHECK_SECONDS = 1.0
_AVOID_SECONDS = 60.0
"""How long a node that did not answer is tried after the others."""
_MOVE_SECONDS = 2.0
"""Longest a clean stop waits for what is being moved to its partition."""


class Worker:
    """One worker process. `run` returns when it was told to stop and has drained."""

    def __init__(self, settings: Settings, *, index: int = 0, pause: PauseState | None = None) -> None:
        """Prepare process number *index* of the pool; nothing is connected yet.

        *pause* is how an earlier process of the pool last knew it.
        """
        self._settings = settings
        self._index = index
        self._app = App(settings, pause)
        self._log = structlog.get_logger()
        self._metrics = self._app.metrics
        self._stopping = asyncio.Event()
        self._consumer: Consumer | PartitionConsumer | None = None
        self._consumers: list[Consumer | PartitionConsumer] = []
        self._consuming_since: float | None = None
        self._broker = self._app.broker_outage()
        self._publishing = self._broker.part("publish")
        self._connected = self._broker.part(""), self._broker.part(SILENCE)
        self._reconnecting = Reconnecting(random=random.random)
        self._avoided = "", 0.0
        self._started_at = self._connecting_since = self._app.clock.now_ms()

    async def run(self) -> None:
        """Work until `stop` is called, through any number of broker sessions."""
        settings = self._settings
        self._log.info(
            "worker_starting",
            broker=address(settings.rabbitmq_url),
            store=self._app.store.address,
            prefetch=settings.prefetch,
            batch_size=settings.batch_size,
        )
        membership = self._app.membership(self._index, self._facts)
        preparing = [
            asyncio.create_task(self._prepare_store(), name="prepare store"),
            asyncio.create_task(membership.run(), name="pool"),
            asyncio.create_task(self._watch_secrets(), name="watch secrets"),
            asyncio.create_task(self._summarise(), name="summary"),
        ]
        if self._index == 0:  # one process of the pool says it, and looks, for all
            preparing.append(
                asyncio.create_task(warn_of_hazards(settings, self._app.reporter), name="look for hazards")
            )
            preparing.append(asyncio.create_task(self._app.letter_observer().run(), name="count letters"))
        try:
            while not self._stopping.is_set():
                await self._session_and_pause()
        finally:
            await cancel_and_wait(preparing)
            await membership.leave()
            for gate in self._app.gates.values():
                await gate.stop()
            await self._app.store.close()
            if self._app.traces is not None:
                await self._app.traces.close()
        self._log.info("worker_stopped", received=self._metrics.received, **self._metrics.outcomes())

    def stop(self) -> None:
        """Stop taking work and drain. May be called from a signal handler of the loop."""
        self._stopping.set()

    async def _summarise(self) -> None:
        """Log what was done, every ten seconds in which something was."""
        received, before = self._metrics.received, Counter(self._metrics.outcomes())
        reasons_before = self._metrics.stored_because()
        while True:
            await asyncio.sleep(_SUMMARY_SECONDS)
            now, reasons = Counter(self._metrics.outcomes()), self._metrics.stored_because()
            new, received = self._metrics.received - received, self._metrics.received
            done, before = now - before, now
            why, reasons_before = reasons - reasons_before, reasons
            if new or done:
                facts: dict[str, object] = {"in_flight": self._metrics.in_flight, **done}
                if why:
                    facts["stored_because"] = dict(why)
                self._log.info("work", seconds=_SUMMARY_SECONDS, received=new, **facts)

    async def _watch_secrets(self) -> None:
        """Drain when the store's address was exchanged: the driver keeps the credentials it was made with.

        The supervisor starts another process, which has the new ones; those of a pool go one after the other.
        """
        while not self._app.is_store_moved():  # noqa: ASYNC110 - a file that changes is no event
            await asyncio.sleep(_SECRETS_SECONDS)
        self._log.info("store_secret_changed")
        await asyncio.sleep(self._index * _SECRETS_SECONDS)
        self.stop()

    async def _prepare_store(self) -> None:
        """Know the store to be there, which readiness waits for, and then make indexes, which nothing waits for."""
        app = self._app
        await app.gates["start"].until_done(app.store.ping)
        self._metrics.dependency_up["store"] = True
        while True:
            try:
                return await ensure_indexes(app.store, app.reporter)
            except Exception as error:  # noqa: BLE001 - whatever it is, messages do not wait for indexes
                failure = classify(error, Stage.STORE)
                if failure.failure_class is not FailureClass.OUTAGE:
                    return app.reporter.warn("store_indexes_unknown", collection="", reason=failure.detail)
            await asyncio.sleep(_INDEX_PAUSE_SECONDS)

    async def _session_and_pause(self) -> None:
        """Run one broker session; when it cannot be, or has ended, report it once and pause."""
        try:
            await self._session()
        except BrokerError as error:
            if self._stopping.is_set():
                return
            self._broker.began(error.failure, error.explained)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause_after(error))

    def _pause_after(self, error: BrokerError) -> float:
        """Return the seconds until the next attempt; after a session that worked they are the fewest again."""
        since, self._consuming_since = self._consuming_since, None
        lasted = 0.0 if since is None else self._app.clock.monotonic() - since
        return self._reconnecting.pause_after(error.failure, lasted)

    async def _session(self) -> None:
        """Connect, work until a connection ends or we are told to stop, and leave everything settled or given back."""
        self._app.refresh_secrets()
        async with contextlib.AsyncExitStack() as stack:
            consuming = await self._connect(stack, "consume", max_bytes_in_hand=self._settings.max_bytes_in_flight)
            publishing = await self._connect(stack, "publish")
            publishing.on_blocked_change = self._publisher_blocked
            stack.callback(self._publisher_unblocked)
            partitions = await self._unless_stopping(found_partitions(consuming))
            publisher = await self._unless_stopping(self._checked_publisher(consuming, publishing, partitions))
            consumer, mover = await self._unless_stopping(self._ingress(consuming, publisher, partitions))
            consumer.on_received = self._app.reporter.received
            waiting_room = await self._unless_stopping(
                Consumer.open(consuming, contract.WAITING, self._app.clock.monotonic)
            )
            waiting_room.on_received = self._app.reporter.received
            if self._settings.receipts:
                receipts = asyncio.create_task(
                    self._app.send_receipts(publishing, lambda: self._open("receipts")), name="receipts"
                )
                stack.push_async_callback(self._app.receipts.finish, receipts, lambda: publishing.is_open)
            self._consumers = [consumer, waiting_room]
            crash = Crash()
            session = self._app.session(publishing, publisher, consumer, waiting_room, crash)
            jobs = [session.run(), session.run_consumer(), session.run_waiting_room()]
            jobs += [self._blocked_for_long(), self._app.replays.run()]
            jobs.append(self._progress_watch(publishing, publisher).run())
            jobs += self._node_watches(consuming, publishing)
            if self._settings.conversation_events:
                jobs += self._app.conversation_jobs(consuming, publishing, publisher)
            if self._settings.record_dead_letters:
                jobs.append(self._app.recorder(consuming, publisher).run())
            if self._index == 0:  # one process of the pool looks for all
                jobs.append(self._app.queue_observer(publishing, partitions).run())
            if mover is not None:
                jobs += [mover.run(), mover.run_consumer()]
            tasks = [asyncio.create_task(job) for job in jobs]
            self._consuming(consumer, consuming, partitions)
            try:
                await self._until_an_end(
                    [*tasks, crash.happened], consuming.closed, publishing.closed, publisher.closed
                )
            finally:
                self._consumer = None
                self._connecting_since = self._app.clock.now_ms()
                await cancel_and_wait(tasks)
                await self._leave(session, consumer, mover)

    async def _checked_publisher(self, consuming: Connection, publishing: Connection, partitions: int) -> Publisher:
        await check_topology(consuming, self._settings, self._app.reporter, partitions)
        await check_rights(consuming, publishing, self._app.settings, partitions)
        return await Publisher.open(
            publishing,
            confirm_timeout_ms=self._settings.confirm_timeout_ms,
            max_unsent_bytes=self._settings.max_bytes_in_flight,
            user_id=self._app.own_user,
        )

    async def _unless_stopping(self, step: Coroutine[Any, Any, T]) -> T:
        """Return the result of *step*; drop it and raise `BrokerUnreachable` when we are told to stop meanwhile."""
        task, stopping = asyncio.create_task(step), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            await cancel_and_wait([task, stopping])
        raise BrokerUnreachable("told to stop while starting")

    async def _ingress(
        self, connection: Connection, publisher: Publisher, partitions: int
    ) -> tuple[Consumer | PartitionConsumer, Mover | None]:
        """Return what takes activities, and where they come in by partitions, what moves the others there."""
        clock = self._app.clock.monotonic
        undivided = await Consumer.open(connection, contract.INGRESS, clock)
        if not partitions:
            return undivided, None
        _, *queues = contract.ingress_queues(partitions)
        # The first to consume a queue in order has it alone: each process of a pool begins with another one.
        first = self._index % partitions
        queues = [*queues[first:], *queues[:first]]
        is_ordered = self._settings.ingress_order
        consumer = await PartitionConsumer.open(connection, queues, clock, is_ordered=is_ordered)
        return consumer, self._app.mover(publisher, undivided)

    def _consuming(self, consumer: Consumer | PartitionConsumer, connection: Connection, partitions: int) -> None:
        self._consumer = consumer
        self._consuming_since = self._app.clock.monotonic()
        if self._broker.failure is None:  # otherwise the progress watch says when the outage is over
            self._metrics.dependency_up["broker"] = True
        self._metrics.sessions += 1
        version = ".".join(map(str, connection.server_version))
        divided = {"partitions": partitions} if partitions else {}
        self._log.info("consuming", queue=contract.INGRESS, broker_version=version, **divided)

    def _progress_watch(self, publishing: Connection, publisher: Publisher) -> ProgressWatch:
        def look() -> Progress:
            is_blocked = publishing.blocked_reason is not None
            return Progress(publisher.is_waiting, publisher.settled, self._metrics.received, is_blocked)

        return ProgressWatch(self._broker, look, self._app.clock)

    def _node_watches(self, *connections: Connection) -> list[Coroutine[Any, Any, None]]:
        """Return what leaves a node that answers nothing, where there are others."""
        if "," not in self._app.settings.rabbitmq_url.get_secret_value():
            return []
        ca_file = self._settings.rabbitmq_ca_file
        return [NodeWatch(one, ca_file=ca_file, on_silent=self._avoid).run() for one in connections]

    def _avoid(self, url: str) -> None:
        """Try the node at *url* last for a while."""
        self._avoided = url, self._app.clock.monotonic() + _AVOID_SECONDS

    async def _connect(
        self, stack: contextlib.AsyncExitStack, purpose: str, *, max_bytes_in_hand: int | None = None
    ) -> Connection:
        connection = await self._unless_stopping(self._open(purpose, max_bytes_in_hand=max_bytes_in_hand))
        stack.push_async_callback(self._close, connection)
        return connection

    async def _open(self, purpose: str, *, max_bytes_in_hand: int | None = None) -> Connection:
        avoided, until = self._avoided
        return await Connection.open(
            self._app.settings.rabbitmq_url.get_secret_value(),
            name=f"cim-worker {self._index} {purpose}",
            heartbeat_seconds=self._settings.rabbitmq_heartbeat_seconds,
            ca_file=self._settings.rabbitmq_ca_file,
            max_bytes_in_hand=max_bytes_in_hand,
            avoid=avoided if self._app.clock.monotonic() < until else None,
        )

    async def _close(self, connection: Connection) -> None:
        await connection.close(failed=not self._stopping.is_set())

    async def _leave(
        self, session: IngressSession, consumer: Consumer | PartitionConsumer, mover: Mover | None
    ) -> None:
        """Drain when we were told to stop; otherwise the broker delivers again what was in hand."""
        if mover is not None:
            await (mover.finish(_MOVE_SECONDS) if self._stopping.is_set() else mover.abandon())
        if not self._stopping.is_set():
            back = await session.abandon()
            if back:
                self._log.info("session_ended", redelivered_later=back)
            return
        finished, back = await session.drain(self._settings.drain_grace_ms / 1000)
        await consumer.close()
        self._log.info("drained", finished=finished, handed_back=back)

    async def _until_an_end(self, tasks: list[asyncio.Future[None]], *ends: asyncio.Future[BrokerError]) -> None:
        """Wait until told to stop; raise why, if something else ended first."""
        stopping = asyncio.create_task(self._stopping.wait())
        awaited: list[asyncio.Future[Any]] = [stopping, *tasks, *ends]
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if self._stopping.is_set():
            return
        for end in ends:
            if end.done():
                raise end.result()
        for task in tasks:
            if task.done():
                task.result()
        msg = "the broker cancelled a consumer"
        raise ConnectionLost(msg)

    async def _blocked_for_long(self) -> None:
        """Raise once the broker has blocked our publishes for too long: others may have a broker that takes them."""
        while self._publishing.seconds < _LONGEST_BLOCKED_SECONDS:  # noqa: ASYNC110 - the passing of time is no event
            await asyncio.sleep(_BLOCKED_CHECK_SECONDS)
        raise PublisherBlocked(f"publishes are blocked for more than {_LONGEST_BLOCKED_SECONDS:g} s")

    def _publisher_blocked(self, reason: str | None) -> None:
        if reason is None:
            self._publisher_unblocked()
            return
        self._metrics.publisher_blocked = True
        self._publishing.began(Failure.of(Code.BROKER_BLOCKED, dependency=Dependency.BROKER), reason)

    def _publisher_unblocked(self) -> None:
        self._metrics.publisher_blocked = False
        self._publishing.ended()

    def report(self) -> ProcessReport:
        """Return what the supervisor is told of this process: whether it makes progress, and its numbers."""
        return ProcessReport(
            checks=self._checks(),
            pause=self._app.pause.state if self._app.pause.is_known else None,
            metrics={**self._metrics.report(), **self._window(), **process_report(str(self._index))},
        )

    def _checks(self) -> list[Check]:
        return [
            Check("broker", self._broker_problem()),
            Check("publishing", self._since("broker blocks publishers", self._publishing)),
            Check("store", self._store_problem()),
            Check("paused", self._paused()),
        ]

    def _window(self) -> Report:
        """Return what is held of the ingress queue and the waiting room, and for how long."""
        now = self._app.clock.monotonic()
        ages = [now - at for one in self._consumers if (at := one.oldest_received_at) is not None]
        return {
            "cim_paused": [[[], int(self._app.pause.is_closed)]],
            "cim_prefetch": [[[], sum(one.prefetch for one in self._consumers)]],
            "cim_unacknowledged": [[[], sum(one.unsettled for one in self._consumers)]],
            "cim_oldest_unacknowledged_seconds": [[[], max(ages, default=0.0)]],
        }

    def _broker_problem(self) -> str | None:
        """Say why nothing is consumed; an open socket alone is not readiness."""
        lost = next((part for part in self._connected if part.failure is not None), self._connected[0])
        problem = self._since("broker unavailable", lost)
        if problem is not None or (self._consumer is not None and self._takes_what_it_may(self._consumer)):
            return problem
        if self._consumer is None:
            at = address(self._settings.rabbitmq_url)
            return f"connecting to the broker at {at} since {_shown(self._connecting_since)}"
        return "the broker has cancelled the consumer; connecting again"

    def _takes_what_it_may(self, consumer: Consumer | PartitionConsumer) -> bool:
        return consumer.is_consuming or (self._app.pause.is_closed and consumer.is_open)

    def _paused(self) -> str | None:
        state = self._app.pause.state
        return f"paused by {state.by} since {_shown(state.at)}: {state.reason}" if state.is_paused else None

    def _facts(self) -> dict[str, Any]:
        """Return what the pool's document says of this process."""
        reasons = [check.reason for check in self._checks() if check.reason is not None]
        outcomes = {name: count for name, count in self._metrics.outcomes().items() if count}
        return {
            "ready": not reasons,
            "reasons": reasons,
            "received": self._metrics.received,
            "outcomes": outcomes,
        }

    def _store_problem(self) -> str | None:
        problem = self._since("store unavailable", self._app.store_outage)
        if problem is not None or "store" in self._metrics.dependency_up:
            return problem
        return f"store unavailable since {_shown(self._started_at)}: {self._app.store.address} has not answered yet"

    def _since(self, what: str, outage: Outage | Part) -> str | None:
        """Return *what*, since when and why, while *outage* lasts."""
        if outage.failure is None:
            return None
        began = self._app.clock.now_ms() - int(outage.seconds * 1000)
        return f"{what} since {_shown(began)}: {outage.reason}"


def _shown(at: int) -> str:
    """Return epoch milliseconds as people read them."""
    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
