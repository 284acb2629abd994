"""One worker process: one broker session after the other, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from worker.addresses import address
from worker.codes import FailureClass, Stage
from worker.failure import classify
from worker.flow.reconnecting import Reconnecting
from worker.flow.tasks import cancel_and_wait, keep_running
from worker.process.app import App
from worker.process.broker_session import BrokerSession
from worker.process.checking import Checking
from worker.process.connecting import Connector
from worker.process.preflight import ensure_indexes, warn_of_hazards
from worker.process.readiness import Readiness
from worker.rabbit.errors import BrokerError

if TYPE_CHECKING:
    from worker.flow.pause import PauseState
    from worker.process.reports import ProcessReport
    from worker.settings import Settings

_SUMMARY_SECONDS = 10
_SECRETS_SECONDS = 3.0
"""How often files of secrets are read again."""
_CLOSE_SECONDS = 3.0
_INDEX_PAUSE_SECONDS = 30.0
"""Pause before indexes are looked at again, after the store went away meanwhile."""


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
        self._readiness = Readiness(self._app, index)
        self._connector = Connector(self._app, index)
        self._checking = Checking(self._app.clock)
        self._reconnecting = Reconnecting(random=random.random)

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
        membership = self._app.membership(self._index, self._readiness.facts)
        beside = {
            "prepare store": self._prepare_store,
            "pool": membership.run,
            "watch secrets": self._watch_secrets,
            "summary": self._summarise,
        }
        if self._index == 0:  # one process of the pool says it, and looks, for all
            beside["look for hazards"] = lambda: warn_of_hazards(settings, self._app.reporter)
            beside["count letters"] = self._app.letter_observer().run
        tasks = [
            asyncio.create_task(keep_running(name, job, self._app.reporter), name=name) for name, job in beside.items()
        ]
        try:
            while not self._stopping.is_set():
                await self._session_and_pause()
        finally:
            await cancel_and_wait(tasks)
            await membership.leave()
            for gate in self._app.gates.values():
                await gate.stop()
            await self._close_store()
            if self._app.traces is not None:
                await self._app.traces.close()
        self._log.info("worker_stopped", received=self._metrics.received, **self._metrics.outcomes())

    def stop(self) -> None:
        """Stop taking work and drain. May be called from a signal handler of the loop."""
        self._stopping.set()

    async def _close_store(self) -> None:
        """Close the store's client within seconds: the driver waits for whatever it has begun, however long."""
        closing = asyncio.create_task(self._app.store.close(), name="close store")
        closing.add_done_callback(self._store_closed)
        await asyncio.wait([closing], timeout=_CLOSE_SECONDS)

    def _store_closed(self, closing: asyncio.Task[None]) -> None:
        if not closing.cancelled() and (error := closing.exception()) is not None:
            self._app.reporter.warn("store_not_closed", reason=classify(error, Stage.STORE).detail)

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
        self._app.refresh_secrets()
        session = BrokerSession(
            self._app, self._index, self._connector, self._checking, self._readiness, self._stopping
        )
        try:
            await session.run()
        except BrokerError as error:
            if self._stopping.is_set():
                return
            self._checking.ended(error)
            self._readiness.broker.began(error.failure, error.explained)
            pause = self._reconnecting.pause_after(error.failure, session.lasted_seconds)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    def report(self) -> ProcessReport:
        """Return what the supervisor is told of this process: whether it makes progress, and its numbers."""
        return self._readiness.report()
