"""The composition root: builds the real objects of one worker process and runs them until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import secrets
import signal
import time
from typing import TYPE_CHECKING, Any

import structlog
import tenacity

from worker import contract
from worker.conversation_cache import ConversationCache
from worker.conversation_keeper import ConversationKeeper
from worker.dead_letter_recorder import DeadLetterRecorder
from worker.failure import AdapterError, classify
from worker.gate import Gate
from worker.mongo.activities import ActivityStore
from worker.mongo.client import connect
from worker.mongo.conversations import Registry
from worker.mongo.dead_letters import DeadLetterStore
from worker.ops.accounts import LoggedAccounts
from worker.ops.health import HealthServer
from worker.ops.metrics import Metrics
from worker.pipeline import Pipeline, PipelineLimits
from worker.ports import Outgoing, Receipt
from worker.rabbit.connection import Connection
from worker.rabbit.consumer import Consumer
from worker.rabbit.conversations import ConversationExchanges
from worker.rabbit.errors import AccessRefused, BrokerError, BrokerUnreachable, ConnectionLost, TopologyMismatch
from worker.rabbit.publisher import Publisher
from worker.rabbit.topology import check, problems, wanted
from worker.retry import RetryBudget, RetryPolicy
from worker.session import IngressSession
from worker.settings import address, delay_seconds, user_name
from worker.tasks import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from worker.failure import Failure
    from worker.settings import Settings

_LOOKUP_TIMEOUT_SECONDS = 3.0
_RECONNECT_SECONDS = (0.2, 3.0)
"""Shortest and longest pause between two attempts to reach the broker, before jitter."""
_PARENT_CHECK_SECONDS = 1.0
_OPERATOR_PAUSE_SECONDS = 10.0
"""Pause after the broker refused us: only an operator can help, and hammering does not."""


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Return epoch milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()


class Worker:
    """One worker process. `run` returns when it was told to stop and has drained."""

    def __init__(self, settings: Settings, *, index: int = 0) -> None:
        """Prepare process number *index* of the pool; nothing is connected yet."""
        self._settings = settings
        self._index = index
        self._clock = SystemClock()
        self._log = structlog.get_logger()
        self._metrics = Metrics()
        self._accounts = LoggedAccounts(self._metrics)
        self._cache = ConversationCache(max_size=settings.registry_cache_size, ttl_ms=settings.registry_cache_ms)
        self._budget = RetryBudget(settings.retries_per_second, self._clock.monotonic())
        self._stopping = asyncio.Event()
        self._consumer: Consumer | None = None
        self._broker_down_since: float | None = None
        self._store = connect(
            settings.mongodb_uri.get_secret_value(),
            settings.mongodb_database,
            timeout_ms=settings.mongodb_timeout_ms,
            ca_file=settings.mongodb_ca_file,
        )
        self._gate = Gate(
            "store",
            self._store.ping,
            random=random.random,
            clock=self._clock.monotonic,
            on_close=self._store_lost,
            on_open=self._accounts.dependency_back,
        )

    async def run(self) -> None:
        """Work until `stop` is called, through any number of broker sessions."""
        health = HealthServer(self._reasons_not_ready, self._metrics.exposition)
        if self._settings.health_port is not None:
            port = await health.start(self._settings.health_host, self._settings.health_port + self._index)
            self._log.info("health_listening", host=self._settings.health_host, port=port)
        self._log.info(
            "worker_starting",
            broker=address(self._settings.rabbitmq_url),
            store=self._store.address,
            prefetch=self._settings.prefetch,
            batch_size=self._settings.batch_size,
        )
        store_ready = asyncio.create_task(self._prepare_store(), name="prepare store")
        try:
            while not self._stopping.is_set():
                await self._session_or_pause()
        finally:
            await cancel_and_wait([store_ready])
            await self._gate.stop()
            await health.stop()
            await self._store.close()
        self._log.info("worker_stopped", received=self._metrics.received, **self._metrics.outcomes())

    def stop(self) -> None:
        """Stop taking work and drain. May be called from a signal handler of the loop."""
        self._stopping.set()

    async def _prepare_store(self) -> None:
        """Create the indexes, when the store is there; lookups by session are slow without."""
        while True:
            await self._gate.wait()
            try:
                await self._store.ping()
                await Registry(self._store).ensure_indexes()
                await ActivityStore(self._store).ensure_indexes()
                await DeadLetterStore(self._store).ensure_indexes()
            except AdapterError as error:
                self._gate.close(error.failure)
                continue
            self._metrics.dependency_up["store"] = True
            return

    async def _session_or_pause(self) -> None:
        """Run one broker session; when it cannot be, or has ended, say so once and pause."""
        low, high = _RECONNECT_SECONDS
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(BrokerError),
            wait=tenacity.wait_random_exponential(multiplier=low, max=high),
            sleep=self._pause,
            stop=lambda _: self._stopping.is_set(),
            reraise=True,
            before_sleep=lambda state: self._broker_failed(state.outcome.exception()),  # type: ignore[union-attr]
        )
        with contextlib.suppress(BrokerError):
            async for attempt in attempts:
                with attempt:
                    await self._session()

    async def _pause(self, seconds: float) -> None:
        if isinstance(self._last_error, AccessRefused | TopologyMismatch):
            seconds = _OPERATOR_PAUSE_SECONDS
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    _last_error: BaseException | None = None

    def _broker_failed(self, error: BaseException | None) -> None:
        """Log the beginning of an outage once, and every refusal that only an operator can end."""
        known = self._broker_down_since is not None and type(error) is type(self._last_error)
        self._last_error = error
        if self._broker_down_since is None:
            self._broker_down_since = self._clock.monotonic()
        if known or error is None or self._stopping.is_set():
            return
        failure = classify(error)
        self._metrics.dependency_up["broker"] = False
        self._metrics.outages["broker", failure.code.value] += 1
        self._log.error(
            "dependency_down",
            dependency="broker",
            code=failure.code.value,
            address=address(self._settings.rabbitmq_url),
            reason=str(error),
        )

    def _broker_fine(self) -> None:
        self._metrics.dependency_up["broker"] = True
        if self._broker_down_since is not None:
            seconds = self._clock.monotonic() - self._broker_down_since
            self._log.info("dependency_up", dependency="broker", outage_seconds=round(seconds, 2))
        self._broker_down_since = self._last_error = None

    async def _session(self) -> None:
        """Connect, work until a connection ends or we are told to stop, and leave everything settled or given back."""
        async with contextlib.AsyncExitStack() as stack:
            consuming = await self._connect(stack, "consume")
            publishing = await self._connect(stack, "publish")
            publishing.on_blocked_change = self._publisher_blocked
            await self._check_topology(consuming)
            publisher = await Publisher.open(
                publishing,
                confirm_timeout_ms=self._settings.confirm_timeout_ms,
                max_unsent_bytes=self._settings.max_bytes_in_flight,
                user_id=self._own_user(),
            )
            await _check_may_publish(publisher)
            consumer = await Consumer.open(consuming, contract.INGRESS, self._clock.monotonic)
            consumer.on_received = self._accounts.received
            pipeline = self._pipeline(publisher, consumer)
            session = IngressSession(consumer, pipeline, self._settings, self._accounts, self._clock)
            jobs: list[Coroutine[Any, Any, None]] = [session.run()]
            if self._settings.conversation_events:
                jobs.append((await self._keeper(consuming, publisher)).run())
            if self._settings.record_dead_letters:
                jobs.append((await self._recorder(consuming, publisher)).run())
            tasks = [asyncio.create_task(job) for job in jobs]
            self._consumer = consumer
            self._broker_fine()
            self._log.info(
                "consuming", queue=contract.INGRESS, broker_version=".".join(map(str, consuming.server_version))
            )
            try:
                await self._until_an_end([*tasks, pipeline.bug], consuming.closed, publishing.closed, publisher.closed)
            finally:
                self._consumer = None
                await cancel_and_wait(tasks)
                await self._leave(session, consumer)
                publishing.on_blocked_change = lambda _: None
                self._metrics.publisher_blocked = False

    async def _leave(self, session: IngressSession, consumer: Consumer) -> None:
        """Drain when we were told to stop; otherwise the broker delivers again what was in hand."""
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

    async def _connect(self, stack: contextlib.AsyncExitStack, purpose: str) -> Connection:
        opening = asyncio.create_task(
            Connection.open(
                self._settings.rabbitmq_url.get_secret_value(),
                name=f"cim-worker {self._index} {purpose}",
                heartbeat_seconds=self._settings.rabbitmq_heartbeat_seconds,
                ca_file=self._settings.rabbitmq_ca_file,
            )
        )
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not opening.done():
            opening.cancel()
            msg = "told to stop while connecting"
            raise BrokerUnreachable(msg)
        connection = opening.result()
        stack.push_async_callback(connection.close)
        return connection

    async def _check_topology(self, connection: Connection) -> None:
        """Refuse to work on a broker where a message could have nowhere to go."""
        tiers = tuple((delay, delay_seconds(delay)) for delay in self._settings.retry_delays)
        expected = wanted(tiers, self._settings.delivery_limit, connection.server_version)
        findings = list(problems(await check(connection, expected)))
        absent = [f"{one.kind} {one.name}" for one in findings if one.is_missing]
        if absent:
            msg = f"missing: {', '.join(absent)}; run `cim-worker topology apply`"
            raise TopologyMismatch(msg)
        for one in findings:
            if not one.is_unchecked:
                self._accounts.trouble("topology_differs", name=one.name, difference=one.problem, way_out=one.way_out)

    def _pipeline(self, publisher: Publisher, consumer: Consumer) -> Pipeline:
        settings = self._settings
        return Pipeline(
            registry=Registry(self._store),
            store=ActivityStore(self._store),
            publisher=publisher,
            gate=self._gate,
            cache=self._cache,
            retry=RetryPolicy(settings.retry_delays, settings.max_attempts),
            budget=self._budget,
            sender_users=settings.sender_users,
            limits=PipelineLimits(
                max_message_bytes=settings.max_message_bytes,
                bundle=settings.batch_size,
                bundle_bytes=settings.max_bytes_in_flight // 2,
                lookup_timeout_seconds=min(_LOOKUP_TIMEOUT_SECONDS, settings.mongodb_timeout_ms / 1000),
                own_user=self._own_user(),
            ),
            clock=self._clock,
            accounts=self._accounts,
            settle=consumer.settle,
            new_id=_new_id,
        )

    async def _keeper(self, connection: Connection, publisher: Publisher) -> ConversationKeeper:
        return ConversationKeeper(
            consumer=await Consumer.open(connection, contract.CONVERSATION_EVENTS, self._clock.monotonic),
            registry=Registry(self._store),
            exchanges=ConversationExchanges(connection),
            publisher=publisher,
            gate=self._gate,
            cache=self._cache,
            grace_ms=self._settings.conversation_grace_ms,
            clock=self._clock,
            accounts=self._accounts,
            new_id=_new_id,
        )

    async def _recorder(self, connection: Connection, publisher: Publisher) -> DeadLetterRecorder:
        return DeadLetterRecorder(
            consumer=await Consumer.open(connection, contract.DEAD_LETTERS, self._clock.monotonic),
            letters=DeadLetterStore(self._store),
            publisher=publisher,
            gate=self._gate,
            interval_ms=self._settings.record_interval_ms,
            clock=self._clock,
            accounts=self._accounts,
            new_id=_new_id,
        )

    def _store_lost(self, name: str, failure: Failure) -> None:
        self._accounts.dependency_lost(name, failure, address=self._store.address)

    def _own_user(self) -> str | None:
        """Return our broker user, when copies have to prove that they are ours."""
        return user_name(self._settings.rabbitmq_url) if self._settings.sender_users else None

    def _publisher_blocked(self, reason: str | None) -> None:
        self._metrics.publisher_blocked = reason is not None
        if reason is not None:
            self._metrics.outages["broker", "broker_blocked"] += 1
            self._log.error("dependency_down", dependency="broker", code="broker_blocked", reason=reason)
        else:
            self._log.info("dependency_up", dependency="broker", code="broker_blocked")

    def _reasons_not_ready(self) -> list[str]:
        """Return why this process does not make progress; an open socket alone is not readiness."""
        checks = {
            "stopping": self._stopping.is_set(),
            "not consuming": self._consumer is None or not self._consumer.is_consuming,
            "store unavailable": not self._gate.is_open or not self._metrics.dependency_up.get("store", False),
            "broker blocks publishers": self._metrics.publisher_blocked,
        }
        return [reason for reason, holds in checks.items() if holds]


async def _check_may_publish(publisher: Publisher) -> None:
    """Find out before the first delivery whether we may publish; both probes are returned, for nothing is bound there.

    A refusal later would hand deliveries back with every new session, and each return counts towards their limit.
    """
    probes = [Outgoing(contract.HUB, "", _new_id(), b""), Outgoing("", f"{contract.INGRESS}.probe", _new_id(), b"")]
    if Receipt.UNKNOWN in await publisher.publish(probes):
        raise await publisher.closed


def _new_id() -> str:
    return secrets.token_hex(12)


def run_process(settings: Settings, index: int, *, parent: int | None = None) -> None:
    """Run one worker process to its end. Blocking; installs signal handlers.

    SIGTERM or SIGINT drains; a second one ends the process at once. With *parent*, the process also drains when that
    one is gone: nobody would restart or stop it any more.
    """

    async def main() -> None:
        worker = Worker(settings, index=index)
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM,) if parent else (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, _on_signal, worker, loop, numbers)
        watch = asyncio.create_task(_stop_when_orphaned(worker, parent)) if parent else None
        try:
            await worker.run()
        finally:
            if watch is not None:
                watch.cancel()

    gc.collect()
    gc.freeze()  # code is never garbage, and searching it at each full collection took a fifth of the processor time
    asyncio.run(main())


def _on_signal(worker: Worker, loop: asyncio.AbstractEventLoop, numbers: tuple[signal.Signals, ...]) -> None:
    worker.stop()
    for number in numbers:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)


async def _stop_when_orphaned(worker: Worker, parent: int) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - becoming an orphan sends no event
        await asyncio.sleep(_PARENT_CHECK_SECONDS)
    worker.stop()
