"""One session with the broker: connect, preflight, work until an end comes, and leave nothing in hand."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from worker import contract
from worker.codes import Code
from worker.failure import Dependency, Failure
from worker.flow.tasks import Crash, cancel_and_wait
from worker.process import building
from worker.process.preflight import check_rights, check_topology
from worker.process.progress import Progress, ProgressWatch
from worker.rabbit.beside import ConnectionBeside
from worker.rabbit.consumer import Consumer
from worker.rabbit.errors import BrokerUnreachable, ConnectionLost, PublisherBlocked
from worker.rabbit.partitions import PartitionConsumer
from worker.rabbit.publisher import Publisher
from worker.rabbit.topology import found_partitions

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from worker.pipeline.moving import Mover
    from worker.process.app import App
    from worker.process.checking import Checking
    from worker.process.connecting import Connector
    from worker.process.readiness import Readiness
    from worker.process.session import IngressSession
    from worker.rabbit.connection import Connection
    from worker.rabbit.errors import BrokerError

T = TypeVar("T")

_LONGEST_BLOCKED_SECONDS = 300.0
"""Nothing stays in hand longer behind a broker that blocks publishers; the next session takes nothing before."""
_BLOCKED_CHECK_SECONDS = 1.0
_CHECK_AGAIN_SECONDS = 2.0
"""Pause before the checks that go on beside the work begin again on another connection."""
_CLOSE_SECONDS = 2.0
"""Longest the broker may take to confirm that it has what a clean stop gave back."""
_MOVE_SECONDS = 2.0
"""Longest a clean stop waits for what is being moved to its partition."""


class BrokerSession:
    """Single use. What outlives it is given to it."""

    def __init__(
        self,
        app: App,
        index: int,
        connector: Connector,
        checking: Checking,
        readiness: Readiness,
        stopping: asyncio.Event,
    ) -> None:
        """Work as process number *index* of the pool, until *stopping*."""
        self._app = app
        self._index = index
        self._connector = connector
        self._checking = checking
        self._readiness = readiness
        self._stopping = stopping
        self._log = structlog.get_logger()
        self._consuming_since: float | None = None
        self._is_silent = False
        """Whether the broker did not answer at the end of a clean stop: then no more is waited for."""

    @property
    def lasted_seconds(self) -> float:
        """How long it has consumed; 0 before it does."""
        since = self._consuming_since
        return 0.0 if since is None else self._app.clock.monotonic() - since

    async def run(self) -> None:
        """Work until a connection ends or we are told to stop, and leave everything settled or given back.

        Raises `BrokerError` with why it could not begin or has ended.
        """
        app = self._app
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._close_connections)
            consuming = await self._connect("consume", max_bytes_in_hand=app.settings.max_bytes_in_flight)
            publishing = await self._connect("publish")
            beside = ConnectionBeside(lambda: self._connector.open("journal", url=publishing.url))
            stack.push_async_callback(beside.close)
            publishing.on_blocked_change = self._publisher_blocked
            stack.callback(self._publisher_unblocked)
            partitions = await self._unless_stopping(found_partitions(consuming))
            is_checked_first = self._checking.is_due_first
            if is_checked_first:
                await self._unless_stopping(self._check(consuming, publishing, partitions))
            publisher = await self._unless_stopping(self._publisher(publishing))
            ingress, mover = await self._unless_stopping(self._ingress(consuming, publisher, partitions))
            waiting_room = await self._unless_stopping(self._beside(consuming, contract.WAITING, partitions))
            ingress.on_received = waiting_room.on_received = app.reporter.received
            if app.settings.receipts:
                self._begin_receipts(stack, publishing)
            crash = Crash()
            session = building.ingress_session(app, publisher, ingress, waiting_room, crash, beside)
            jobs = self._jobs(session, consuming, publishing, publisher, partitions)
            jobs.append(self._progress_watch(ingress, publishing, publisher).run())
            if mover is not None:
                jobs += [mover.run(), mover.run_consumer()]
            if not is_checked_first:
                jobs.append(self._check_beside(partitions))
            tasks = [asyncio.create_task(job) for job in jobs]
            self._begins(ingress, waiting_room, consuming, partitions)
            try:
                await self._until_an_end(
                    [*tasks, crash.happened], consuming.closed, publishing.closed, publisher.closed
                )
            finally:
                self._readiness.left()
                await cancel_and_wait(tasks)
                await self._leave(session, ingress, mover)

    def _jobs(
        self,
        session: IngressSession,
        consuming: Connection,
        publishing: Connection,
        publisher: Publisher,
        partitions: int,
    ) -> list[Coroutine[Any, Any, None]]:
        """Return what runs as long as the session does; the end of one is the end of all."""
        app = self._app
        jobs = [session.run(), session.run_consumer(), session.run_waiting_room()]
        jobs += [self._blocked_for_long(), app.replays.run()]
        jobs += self._connector.node_watches(consuming, publishing)
        if app.settings.conversation_events:
            jobs += building.conversation_jobs(app, consuming, publishing, publisher)
        if app.settings.record_dead_letters:
            jobs.append(building.recorder(app, consuming, publisher).run())
        if self._index == 0:  # one process of the pool looks for all
            jobs.append(app.queue_observer(publishing, partitions).run())
        return jobs

    async def _check(self, consuming: Connection, publishing: Connection, partitions: int) -> None:
        app = self._app
        await check_topology(consuming, app.settings, app.reporter, partitions)
        await check_rights(consuming, publishing, app.settings, partitions)
        self._checking.passed()

    async def _check_beside(self, partitions: int) -> None:
        """Check on another connection, until it could be done, and then nothing more until cancelled.

        RabbitMQ ends the connection (541) on which something was asked that finds no quorum for half a minute.
        """
        while True:
            try:
                connection = await self._connector.open("checks")
                await self._check(connection, connection, partitions)
                await connection.close()
                await asyncio.Event().wait()  # the end of one of a session's jobs is the end of all
            except (BrokerUnreachable, ConnectionLost):
                await asyncio.sleep(_CHECK_AGAIN_SECONDS)

    async def _publisher(self, publishing: Connection) -> Publisher:
        app = self._app
        return await Publisher.open(
            publishing,
            confirm_timeout_ms=app.settings.confirm_timeout_ms,
            max_unsent_bytes=app.settings.max_bytes_in_flight,
            user_id=app.own_user,
        )

    async def _ingress(
        self, connection: Connection, publisher: Publisher, partitions: int
    ) -> tuple[Consumer | PartitionConsumer, Mover | None]:
        """Return what takes activities, and where they come in by partitions, what moves the others there."""
        undivided = await self._beside(connection, contract.INGRESS, partitions)
        if not partitions:
            return undivided, None
        _, *queues = contract.ingress_queues(partitions)
        # The first to consume a queue in order has it alone: each process of a pool begins with another one.
        first = self._index % partitions
        queues = [*queues[first:], *queues[:first]]
        clock, is_ordered = self._app.clock.monotonic, self._app.settings.ingress_order
        consumer = await PartitionConsumer.open(connection, queues, clock, is_ordered=is_ordered)
        return consumer, building.mover(self._app, publisher, undivided)

    async def _beside(self, connection: Connection, queue: str, partitions: int) -> Consumer:
        """Return what takes from a queue beside the partitions, in its order where that is kept."""
        is_ordered = self._app.settings.ingress_order and partitions > 0
        return await Consumer.open(connection, queue, self._app.clock.monotonic, is_ordered=is_ordered)

    def _begin_receipts(self, stack: contextlib.AsyncExitStack, publishing: Connection) -> None:
        receipts = asyncio.create_task(
            building.send_receipts(self._app, publishing, lambda: self._connector.open("receipts")), name="receipts"
        )
        stack.push_async_callback(self._app.receipts.finish, receipts, lambda: publishing.is_open)

    def _begins(
        self,
        ingress: Consumer | PartitionConsumer,
        waiting_room: Consumer,
        connection: Connection,
        partitions: int,
    ) -> None:
        self._consuming_since = self._app.clock.monotonic()
        self._readiness.consuming(ingress, waiting_room)
        metrics = self._app.metrics
        if self._readiness.broker.failure is None:  # otherwise the progress watch says when the outage is over
            metrics.dependency_up["broker"] = True
        metrics.sessions += 1
        version = ".".join(map(str, connection.server_version))
        divided = {"partitions": partitions} if partitions else {}
        self._log.info("consuming", queue=contract.INGRESS, broker_version=version, **divided)

    def _progress_watch(
        self, ingress: Consumer | PartitionConsumer, publishing: Connection, publisher: Publisher
    ) -> ProgressWatch:
        def look() -> Progress:
            is_waiting = publisher.is_waiting or ingress.is_waiting
            is_blocked = publishing.blocked_reason is not None
            return Progress(is_waiting, publisher.settled, self._app.metrics.received, is_blocked)

        return ProgressWatch(self._readiness.broker, look, self._app.clock)

    async def _connect(self, purpose: str, *, max_bytes_in_hand: int | None = None) -> Connection:
        return await self._unless_stopping(self._connector.open(purpose, max_bytes_in_hand=max_bytes_in_hand))

    async def _close_connections(self) -> None:
        await self._connector.close_all(failed=not self._stopping.is_set() or self._is_silent)

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

    async def _leave(self, session: IngressSession, ingress: Consumer | PartitionConsumer, mover: Mover | None) -> None:
        """Drain when we were told to stop; otherwise the broker delivers again what was in hand."""
        if mover is not None:
            await (mover.finish(_MOVE_SECONDS) if self._stopping.is_set() else mover.abandon())
        if not self._stopping.is_set():
            back = await session.abandon()
            if back:
                self._log.info("session_ended", redelivered_later=back)
            return
        finished, back = await session.drain(self._app.settings.drain_grace_ms / 1000)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await ingress.close()
        self._is_silent = ingress.is_open
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
        self._checking.missed()
        msg = "the broker cancelled a consumer"
        raise ConnectionLost(msg)

    async def _blocked_for_long(self) -> None:
        """Raise once the broker has blocked our publishes for too long: others may have a broker that takes them."""
        while self._readiness.publishing.seconds < _LONGEST_BLOCKED_SECONDS:  # noqa: ASYNC110 - the passing of time is no event
            await asyncio.sleep(_BLOCKED_CHECK_SECONDS)
        raise PublisherBlocked(f"publishes are blocked for more than {_LONGEST_BLOCKED_SECONDS:g} s")

    def _publisher_blocked(self, reason: str | None) -> None:
        if reason is None:
            self._publisher_unblocked()
            return
        self._app.metrics.publisher_blocked = True
        self._readiness.publishing.began(Failure.of(Code.BROKER_BLOCKED, dependency=Dependency.BROKER), reason)

    def _publisher_unblocked(self) -> None:
        self._app.metrics.publisher_blocked = False
        self._readiness.publishing.ended()
