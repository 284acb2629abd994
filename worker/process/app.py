"""The composition of one worker process: what is built, of what, and how long it lives. Nothing else."""

from __future__ import annotations

import os
import random
import secrets
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from worker import contract
from worker.addresses import address, user_name
from worker.conversations.cache import ConversationCache
from worker.conversations.convergence import Convergence
from worker.conversations.lifecycle_consumer import LifecycleConsumer
from worker.conversations.reaper import Reaper
from worker.conversations.reconciler import ExchangeReconciler
from worker.conversations.unreadable import UnreadableLog
from worker.dead_letters.outcomes import ReplayOutcomes
from worker.dead_letters.recorder import DeadLetterRecorder
from worker.failure import Dependency
from worker.flow.backoff import Backoff
from worker.flow.gate import Gate
from worker.flow.outage import Outage
from worker.flow.pause import Pause
from worker.mongo.activities import ActivityStore
from worker.mongo.client import connect
from worker.mongo.dead_letters import DeadLetterStore
from worker.mongo.pools import Pools
from worker.mongo.registry import Registry
from worker.ops.metrics import Metrics
from worker.ops.reporter import LoggingReporter
from worker.pipeline.copies import Copies
from worker.pipeline.finder import ConversationFinder
from worker.pipeline.journal import Gap, Journal
from worker.pipeline.moving import Mover, PartitionKeys
from worker.pipeline.order import KeyOrder
from worker.pipeline.pipeline import LOOKUPS_AT_ONCE, Pipeline
from worker.pipeline.publishing import Publishing
from worker.pipeline.reading import Reading
from worker.pipeline.receipts import Receipts
from worker.pipeline.retry import RetryPolicy
from worker.pipeline.senders import Senders
from worker.pipeline.settlement import Settlement
from worker.pipeline.storing import Storing
from worker.process.clock import SystemClock
from worker.process.membership import Membership
from worker.process.observing import LetterObserver, QueueObserver
from worker.process.session import IngressSession
from worker.rabbit.consumer import Consumer
from worker.rabbit.exchanges import ConversationExchanges, ReconcilerSeat
from worker.rabbit.publisher import Publisher
from worker.rabbit.receipts import ReceiptPublisher
from worker.settings import ConfigurationError, delay_seconds, refreshed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from worker.flow.pause import PauseState
    from worker.flow.tasks import Crash
    from worker.ops.tracing import Exporter, SpanTracing
    from worker.pipeline.settlement import Listener
    from worker.ports import Delivery
    from worker.rabbit.connection import Connection
    from worker.rabbit.partitions import PartitionConsumer
    from worker.settings import Settings

_PAUSE_SECONDS = (1.0, 30.0)
"""First and longest pause before a journal that is down, or a channel for receipts, is tried again."""
_NEVER_MS = 10**9
"""A missing confirm of the journal must not end the connection that everything else is published on."""
_PROBE_SECONDS = (0.1, 2.0)
"""First and longest pause between two probes of the store: full speed is back within five seconds of its return."""


def new_id() -> str:
    """Return 24 random hex digits, for copies of deliveries that have no message id."""
    return secrets.token_hex(12)


def _exporter() -> Exporter:
    """Return what exports traces; the settings have made sure that the extra is there."""
    from worker.ops.tracing import Exporter  # noqa: PLC0415 - only who asks for traces needs the extra, and its time

    return Exporter()


class App:
    """What lives as long as the process, and how a broker session is built from it."""

    def __init__(self, settings: Settings, pause: PauseState | None = None) -> None:
        """Build; nothing is connected yet. *pause* is how an earlier process of the pool last knew it.

        Raises `OperatorFault` when the store's address cannot be used.
        """
        self.settings = settings
        self.pause = Pause(pause)
        self._secrets_problem = ""
        self._store_uri = settings.mongodb_uri
        self.clock = SystemClock()
        self.metrics = Metrics()
        self.reporter = LoggingReporter(self.metrics)
        self.cache = ConversationCache(max_size=settings.registry_cache_size, ttl_ms=settings.registry_cache_ms)
        self._returned: Callable[[str], None] = lambda _conversation_id: None
        self.unreadable = UnreadableLog(self.reporter, self.clock)
        self.retry = RetryPolicy(
            settings.retry_delays,
            settings.max_attempts,
            per_second=settings.retries_per_second,
            now=self.clock.monotonic(),
            on_deferred=self.metrics.count_deferred_retry,
        )
        self.store = connect(
            settings.mongodb_uri.get_secret_value(),
            settings.mongodb_database,
            timeout_ms=settings.mongodb_timeout_ms,
            ca_file=settings.mongodb_ca_file,
        )
        self.worker_name = f"{socket.gethostname()}-{os.getpid()}"
        """Names this process in the journal."""
        self.journal_gap = Gap()
        self.traces = _exporter() if settings.tracing else None
        self.receipts = Receipts(
            queues=settings.receipt_queues,
            clock=self.clock,
            reporter=self.reporter,
            new_backoff=lambda: self.backoff(*_PAUSE_SECONDS),
        )
        self.journal_outage = self.outage("journal", contract.OUTCOMES)
        self.store_outage = self.outage("store", self.store.address)
        self.gates = {
            work: self._gate(work) for work in ("start", "lookups", "activities", "lifecycle", "letters", "replays")
        }
        """One for each kind of work on the store: a failing one does not stop the others."""
        self.letters = DeadLetterStore(self.store, retention_ms=delay_seconds(settings.letter_retention) * 1000)
        self.replays = ReplayOutcomes(self.letters, self.gates["replays"], self.clock, self.reporter)
        """Writes the outcome of replays to their letters."""

    def refresh_secrets(self) -> None:
        """Use the secrets that come from files as they are now. Call it between two sessions."""
        self.settings = self._fresh_settings()

    def is_store_moved(self) -> bool:
        """Tell whether the file of the store's address holds another one than the driver was made with."""
        return self._fresh_settings().mongodb_uri != self._store_uri

    def _fresh_settings(self) -> Settings:
        """What cannot be read or used is said once, and the earlier one goes on to hold."""
        try:
            fresh = refreshed(self.settings)
        except ConfigurationError as error:
            if str(error) != self._secrets_problem:
                self._secrets_problem = str(error)
                self.reporter.warn("secret_unreadable", problem=self._secrets_problem)
            return self.settings
        self._secrets_problem = ""
        return fresh

    def outage(self, dependency: str, at: str) -> Outage:
        """Return what reports outages of *dependency*."""
        return Outage(dependency, address=at, reporter=self.reporter, clock=self.clock)

    def broker_outage(self) -> Outage:
        """Return what reports outages of the broker."""
        return self.outage("broker", address(self.settings.rabbitmq_url))

    @staticmethod
    def backoff(first: float, longest: float) -> Backoff:
        """Return pauses between attempts, in seconds."""
        return Backoff(first, longest, random=random.random)

    @property
    def own_user(self) -> str:
        """Our broker user, which the broker vouches for on all we publish: by it copies are known as ours."""
        return user_name(self.settings.rabbitmq_url)

    @property
    def trusted_users(self) -> frozenset[str]:
        """The users whose copies are believed; our own always, or no retry would ever be counted."""
        return frozenset((*self.settings.trusted_users, self.own_user))

    def session(
        self,
        publishing: Connection,
        publisher: Publisher,
        ingress: Consumer | PartitionConsumer,
        waiting_room: Consumer,
        crash: Crash,
    ) -> IngressSession:
        """Return the work on the ingress queue and the waiting room of one broker session."""
        settings = self.settings
        consumers = {**dict.fromkeys(ingress.queues, ingress), contract.WAITING: waiting_room}

        def acknowledge(delivery: Delivery) -> None:
            consumers[delivery.queue].settle(delivery)

        journal = self._journal(publishing, acknowledge) if settings.journal else None
        tracing = None if self.traces is None else self.traces.session(self.clock)
        observers: list[Listener] = [] if tracing is None else [tracing]
        order = self._key_order() if settings.ingress_order and len(ingress.queues) > 1 else None
        if order is not None:
            observers.append(order)
        settlement = Settlement(acknowledge, self.reporter, self.clock, journal, self._listeners(), observers)
        reading = Reading(
            Senders(settings.sender_users, self.trusted_users),
            max_message_bytes=settings.max_message_bytes,
            event_names=settings.event_names,
            tracing=tracing,
        )
        copies = self._copies(publisher, settlement, crash, tracing)
        storing = self._storing(copies, settlement, reading, crash)
        finder = self._finder(crash)
        publishing_events = Publishing(
            publisher=publisher,
            reading=reading,
            finder=finder,
            storing=storing,
            copies=copies,
            settlement=settlement,
            clock=self.clock,
            reporter=self.reporter,
            crash=crash,
            bundle=settings.batch_size,
            # One for each batch in progress, one for the waiting room's, and those of lookups.
            at_once=settings.batches_in_flight + 1 + LOOKUPS_AT_ONCE,
            on_returned=self._event_returned,
        )
        pipeline = Pipeline(
            reading=reading,
            finder=finder,
            publishing=publishing_events,
            storing=storing,
            copies=copies,
            clock=self.clock,
            reporter=self.reporter,
            crash=crash,
            bundle=settings.batch_size,
        )
        return IngressSession(
            ingress=ingress,
            waiting_room=waiting_room,
            pipeline=pipeline,
            storing=storing,
            settlement=settlement,
            settings=settings,
            clock=self.clock,
            crash=crash,
            pause=self.pause,
            order=order,
        )

    def _key_order(self) -> KeyOrder:
        return KeyOrder(
            key_of=PartitionKeys(self.trusted_users, self.settings.max_message_bytes).of,
            most_in_all=self.settings.prefetch // 4,
            on_given_up=self.metrics.count_order_given_up,
        )

    def mover(self, publisher: Publisher, consumer: Consumer) -> Mover:
        """Return what moves on to the partitions what *consumer* takes."""
        return Mover(
            consumer=consumer,
            publisher=publisher,
            keys=PartitionKeys(self.trusted_users, self.settings.max_message_bytes),
            pause=self.pause,
            reporter=self.reporter,
            new_id=new_id,
            on_moved=self.metrics.count_moved,
        )

    def _listeners(self) -> list[Listener]:
        """Return who is told the outcome of deliveries that somebody follows; each notes it and returns at once."""
        return [self.replays, self.receipts] if self.settings.receipts else [self.replays]

    async def send_receipts(self, publishing: Connection, connect: Callable[[], Awaitable[Connection]]) -> None:
        """Send receipts, on AMQP channels of their own, until cancelled."""

        async def open_direct() -> ReceiptPublisher:
            connection = await connect()
            try:
                return await open_on(connection, owns_connection=True)
            except BaseException:
                await connection.close()
                raise

        open_on = partial(ReceiptPublisher.open, user_id=self.own_user, count=self.reporter.receipts)
        await self.receipts.run(lambda: open_on(publishing), open_direct, lambda: publishing.is_open)

    def _copies(
        self, publisher: Publisher, settlement: Settlement, crash: Crash, tracing: SpanTracing | None
    ) -> Copies:
        return Copies(
            tracing=tracing,
            publisher=publisher,
            retry=self.retry,
            settlement=settlement,
            clock=self.clock,
            reporter=self.reporter,
            crash=crash,
            new_id=new_id,
            bundle=self.settings.batch_size,
            bundle_bytes=self.settings.max_bytes_in_flight // 2,
        )

    def _storing(self, copies: Copies, settlement: Settlement, reading: Reading, crash: Crash) -> Storing:
        return Storing(
            store=ActivityStore(self.store),
            gate=self.gates["activities"],
            copies=copies,
            settlement=settlement,
            reading=reading,
            clock=self.clock,
            reporter=self.reporter,
            crash=crash,
            bundle=self.settings.batch_size,
        )

    def _finder(self, crash: Crash) -> ConversationFinder:
        return ConversationFinder(
            registry=Registry(self.store, self.unreadable),
            cache=self.cache,
            gate=self.gates["lookups"],
            clock=self.clock,
            crash=crash,
            bundle=self.settings.batch_size,
            reporter=self.reporter,
        )

    def _event_returned(self, conversation_id: str) -> None:
        self._returned(conversation_id)

    def conversation_jobs(
        self, consuming: Connection, publishing: Connection, publisher: Publisher
    ) -> list[Coroutine[None, None, None]]:
        """Return what keeps the registry and the conversation exchanges.

        Exchanges are declared where we publish: on *consuming* a reply may be behind deliveries that are not read yet.
        """
        registry = Registry(self.store, self.unreadable)
        convergence = Convergence(registry, ConversationExchanges(publishing))
        reaper = Reaper(
            registry=registry,
            convergence=convergence,
            gate=self.gates["lifecycle"],
            grace_ms=self.settings.conversation_grace_ms,
            clock=self.clock,
            reporter=self.reporter,
        )
        reconciler = ExchangeReconciler(
            registry=registry,
            convergence=Convergence(registry, ConversationExchanges(publishing)),
            reaper=reaper,
            gate=self.gates["lifecycle"],
            seat=ReconcilerSeat(publishing, self.clock.monotonic),
            expiry_ms=delay_seconds(self.settings.conversation_expiry) * 1000,
            clock=self.clock,
            reporter=self.reporter,
        )
        consumer = LifecycleConsumer(
            open_queue=lambda: Consumer.open(consuming, contract.CONVERSATION_EVENTS, self.clock.monotonic),
            registry=registry,
            convergence=convergence,
            reaper=reaper,
            owe=reconciler.owe,
            publisher=publisher,
            gate=self.gates["lifecycle"],
            cache=self.cache,
            retry=self.retry,
            clock=self.clock,
            reporter=self.reporter,
            new_id=new_id,
            random=random.random,
            trusted=self.trusted_users,
            on_end=self.replays.note,
        )
        self._returned = reconciler.returned
        return [consumer.run(), reaper.run(), reconciler.run()]

    def recorder(self, connection: Connection, publisher: Publisher) -> DeadLetterRecorder:
        """Return what moves dead letters into the store."""
        return DeadLetterRecorder(
            open_queue=lambda: Consumer.open(connection, contract.DEAD_LETTERS, self.clock.monotonic),
            letters=self.letters,
            trusted=self.trusted_users,
            count_letters=self.letters.count,
            max_letters=self.settings.max_letters,
            publisher=publisher,
            gate=self.gates["letters"],
            interval_ms=self.settings.record_interval_ms,
            clock=self.clock,
            reporter=self.reporter,
            new_id=new_id,
        )

    def membership(self, index: int, facts: Callable[[], dict[str, Any]]) -> Membership:
        """Return what keeps this process, number *index*, in its pool's document."""
        return Membership(
            Pools(self.store),
            self.settings.pool,
            index=index,
            pause=self.pause,
            facts=facts,
            clock=self.clock,
            reporter=self.reporter,
        )

    def queue_observer(self, connection: Connection, partitions: int) -> QueueObserver:
        """Return what looks at the depth of our queues, with the management API where that may be asked."""
        return QueueObserver(connection, self.settings, self.metrics, self.clock, partitions=partitions)

    def letter_observer(self) -> LetterObserver:
        """Return what counts the open letters in the store."""
        return LetterObserver(self.letters, self.metrics, self.clock)

    def _journal(self, publishing: Connection, release: Callable[[Delivery], None]) -> Journal:
        """Return the journal of one session, on an AMQP channel of its own that ends nothing when it fails."""
        return Journal(
            open_publisher=lambda: Publisher.open(publishing, confirm_timeout_ms=_NEVER_MS, user_id=self.own_user),
            is_connected=lambda: publishing.is_open,
            gap=self.journal_gap,
            release=release,
            worker=self.worker_name,
            outage=self.journal_outage,
            backoff=self.backoff(*_PAUSE_SECONDS),
            clock=self.clock,
            reporter=self.reporter,
        )

    def _gate(self, work: str) -> Gate:
        return Gate(
            Dependency.STORE,
            work,
            outage=self.store_outage,
            backoff=self.backoff(*_PROBE_SECONDS),
            clock=self.clock,
        )
