"""What lives as long as one worker process. What one broker session is built of is in `building`."""

from __future__ import annotations

import os
import random
import socket
from typing import TYPE_CHECKING, Any

from worker import contract
from worker.addresses import address, user_name
from worker.conversations.cache import ConversationCache
from worker.conversations.unreadable import UnreadableLog
from worker.dead_letters.outcomes import ReplayOutcomes
from worker.failure import Dependency, OperatorFault
from worker.flow.backoff import Backoff
from worker.flow.gate import Gate
from worker.flow.outage import Outage
from worker.flow.pause import Pause
from worker.mongo.client import connect
from worker.mongo.dead_letters import DeadLetterStore
from worker.mongo.pools import Pools
from worker.ops.metrics import Metrics
from worker.ops.reporter import LoggingReporter
from worker.pipeline.journal import Gap
from worker.pipeline.receipts import Receipts
from worker.pipeline.retry import RetryPolicy
from worker.process.clock import SystemClock
from worker.process.membership import Membership
from worker.process.observing import LetterObserver, QueueObserver
from worker.settings import ConfigurationError, delay_seconds, refreshed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import SecretStr

    from worker.flow.pause import PauseState
    from worker.mongo.client import Store
    from worker.ops.tracing import Exporter
    from worker.rabbit.connection import Connection
    from worker.settings import Settings

_LISTENER_SECONDS = (1.0, 30.0)
"""First and longest pause before a journal that is down, or a channel for receipts, is tried again."""
_PROBE_SECONDS = (0.1, 2.0)
"""First and longest pause between two probes of the store: full speed is back within five seconds of its return."""


def _exporter() -> Exporter:
    """Return what exports traces; the settings have made sure that the extra is there."""
    from worker.ops.tracing import Exporter  # noqa: PLC0415 - only who asks for traces needs the extra, and its time

    return Exporter()


def _store_of(settings: Settings) -> Store:
    return connect(
        settings.mongodb_uri.get_secret_value(),
        settings.mongodb_database,
        timeout_ms=settings.mongodb_timeout_ms,
        ca_file=settings.mongodb_ca_file,
    )


class App:
    """What lives as long as the process."""

    def __init__(self, settings: Settings, pause: PauseState | None = None) -> None:
        """Build; nothing is connected yet. *pause* is how an earlier process of the pool last knew it.

        Raises `OperatorFault` when the store's address cannot be used.
        """
        self.settings = settings
        self.pause = Pause(pause)
        self._secrets_problem = ""
        self._store_uri = settings.mongodb_uri
        self._unusable_uri: SecretStr | None = None
        """What the file of the store's address held last that cannot be used."""
        self.clock = SystemClock()
        self.metrics = Metrics()
        self.reporter = LoggingReporter(self.metrics)
        self.cache = ConversationCache(max_size=settings.registry_cache_size, ttl_ms=settings.registry_cache_ms)
        self.on_event_returned: Callable[[str], None] = lambda _conversation_id: None
        """Called with the id of a conversation whose exchange had nobody for an event."""
        self.unreadable = UnreadableLog(self.reporter, self.clock)
        self.retry = RetryPolicy(
            settings.retry_delays,
            settings.max_attempts,
            per_second=settings.retries_per_second,
            now=self.clock.monotonic(),
            on_deferred=self.metrics.count_deferred_retry,
        )
        self.store = _store_of(settings)
        self.worker_name = f"{socket.gethostname()}-{os.getpid()}"
        """Names this process in the journal."""
        self.journal_gap = Gap()
        self.traces = _exporter() if settings.tracing else None
        self.receipts = Receipts(
            queues=settings.receipt_queues,
            clock=self.clock,
            reporter=self.reporter,
            new_backoff=self.listener_backoff,
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
        """Tell whether the file of the store's address holds another one than the driver was made with.

        One that cannot be used is said once, and the driver keeps its own.
        """
        fresh = self._fresh_settings()
        if fresh.mongodb_uri in {self._store_uri, self._unusable_uri}:
            return False
        try:
            _store_of(fresh)
        except OperatorFault as error:
            self._unusable_uri = fresh.mongodb_uri
            self.reporter.warn("secret_unreadable", problem=f"CIM_MONGODB_URI: {error.failure.detail}")
            return False
        return True

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

    def listener_backoff(self) -> Backoff:
        """Return the pauses of what is fed with outcomes: the journal, and the channels for receipts."""
        return self.backoff(*_LISTENER_SECONDS)

    def event_returned(self, conversation_id: str) -> None:
        """Say that the exchange of this conversation had nobody for an event."""
        self.on_event_returned(conversation_id)

    @property
    def own_user(self) -> str:
        """Our broker user, which the broker vouches for on all we publish: by it copies are known as ours."""
        return user_name(self.settings.rabbitmq_url)

    @property
    def trusted_users(self) -> frozenset[str]:
        """The users whose copies are believed; our own always, or no retry would ever be counted."""
        return frozenset((*self.settings.trusted_users, self.own_user))

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

    def _gate(self, work: str) -> Gate:
        return Gate(
            Dependency.STORE,
            work,
            outage=self.store_outage,
            backoff=self.backoff(*_PROBE_SECONDS),
            clock=self.clock,
        )
