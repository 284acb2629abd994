"""The gateway's connection to the broker: confirmed publishes to ingress, pipelined for all requests together."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from worker import contract
from worker.addresses import user_name
from worker.codes import Code, FailureClass
from worker.failure import Dependency, Failure
from worker.ports import Confirmation
from worker.rabbit.connection import Connection
from worker.rabbit.errors import BrokerError
from worker.rabbit.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from worker.flow.backoff import Backoff
    from worker.flow.outage import Outage
    from worker.ports import Outgoing
    from worker.settings import Settings

_OPERATOR_PAUSE_SECONDS: Final = 10.0
"""Pause after the broker refused us: only an operator can help, and hammering does not."""
_STEADY_SECONDS: Final = 5.0
"""A connection that lived this long was a success: the next pause is the shortest again."""

_Waiting = tuple["Outgoing", "asyncio.Future[Confirmation]"]


class Unavailable(Exception):  # noqa: N818 - a state of the world, not an error of ours
    """Nothing can be published now. The text is one sentence for the client."""


class Ingress:
    """Publishes to ingress while there is a connection, and reconnects for ever when there is none."""

    def __init__(self, settings: Settings, *, outage: Outage, blocking: Outage, backoff: Backoff) -> None:
        """Report what is wrong with the connection to *outage*, and that the broker blocks it to *blocking*."""
        self._settings = settings
        self._outage = outage
        self._blocking = blocking
        self._backoff = backoff
        self._deadline = settings.gateway_confirm_timeout_ms / 1000
        self._connection: Connection | None = None
        self._publisher: Publisher | None = None
        self._waiting: list[_Waiting] = []
        self._windows: set[asyncio.Task[None]] = set()
        self.in_flight = 0
        """Publishes whose effect is not known yet."""
        self.on_connected: list[Callable[[Connection], Coroutine[None, None, None]]] = []
        """Called with each new connection, before anything is published on it; what it raises ends the connection."""

    def reason_against(self) -> str | None:
        """Return why nothing can be published now, in one sentence; None when it can."""
        if self._publisher is None or self._connection is None:
            return "The broker cannot be reached."
        if self._connection.blocked_reason is not None:
            return "The broker accepts no messages at the moment."
        return None

    async def publish(self, message: Outgoing) -> Confirmation:
        """Publish *message* and return what became of it, `UNKNOWN` when the broker does not say so in time.

        Raises `Unavailable` when it was not sent.
        """
        reason = self.reason_against()
        if reason is not None:
            raise Unavailable(reason)
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[Confirmation] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((message, confirmed))
        self.in_flight += 1
        return await confirmed

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep a connection until *stopping* is set; then close it."""
        while not stopping.is_set():
            began = asyncio.get_running_loop().time()
            try:
                await self._session(stopping)
            except BrokerError as error:
                self._outage.began(error.failure, error.explained)
                pause = self._pause_after(error, asyncio.get_running_loop().time() - began)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), pause)

    def _pause_after(self, error: BrokerError, seconds: float) -> float:
        if seconds > _STEADY_SECONDS:
            self._backoff.reset()
        is_operators = error.failure.failure_class is FailureClass.OPERATOR
        return _OPERATOR_PAUSE_SECONDS if is_operators else self._backoff.next()

    async def _session(self, stopping: asyncio.Event) -> None:
        connection = await Connection.open(
            self._settings.rabbitmq_url.get_secret_value(),
            name="cim-worker gateway",
            heartbeat_seconds=self._settings.rabbitmq_heartbeat_seconds,
            ca_file=self._settings.rabbitmq_ca_file,
        )
        connection.on_blocked_change = self._blocked
        try:
            publisher = await self._prepare(connection)
            self._connection, self._publisher = connection, publisher
            self._outage.ended()
            stopped = asyncio.create_task(stopping.wait())
            ends: list[asyncio.Future[Any]] = [stopped, connection.closed, publisher.closed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not stopping.is_set():
                raise connection.closed.result() if connection.closed.done() else publisher.closed.result()
        finally:
            self._connection = self._publisher = None
            self._blocking.ended()
            await connection.close()

    async def _prepare(self, connection: Connection) -> Publisher:
        # Publishing to a missing exchange would cost the channel and with it the confirms of all the others.
        await (await connection.channel()).call("exchange_declare", contract.INGRESS, passive=True)
        for prepare in self.on_connected:
            await prepare(connection)
        return await Publisher.open(
            connection,
            confirm_timeout_ms=2 * self._settings.gateway_confirm_timeout_ms,
            max_unsent_bytes=self._settings.max_bytes_in_flight,
            user_id=user_name(self._settings.rabbitmq_url),
        )

    def _blocked(self, reason: str | None) -> None:
        if reason is None:
            self._blocking.ended()
        else:
            self._blocking.began(Failure.of(Code.BROKER_BLOCKED, dependency=Dependency.BROKER), reason)

    def _flush(self) -> None:
        """Publish what this turn of the loop has brought, in one window."""
        window, self._waiting = self._waiting, []
        task = asyncio.create_task(self._publish(window), name="publish window")
        self._windows.add(task)
        task.add_done_callback(self._windows.discard)

    async def _publish(self, window: Sequence[_Waiting]) -> None:
        if self._publisher is None:
            self.in_flight -= len(window)
            for _, confirmed in window:
                if not confirmed.done():
                    confirmed.set_exception(Unavailable(self.reason_against() or "The broker is away."))
            return
        late = asyncio.get_running_loop().call_later(self._deadline, _settle_unknown, window)
        confirmations: Sequence[Confirmation] = [Confirmation.UNKNOWN] * len(window)
        try:
            confirmations = await self._publisher.publish([message for message, _ in window])
        finally:
            late.cancel()
            self.in_flight -= len(window)
            for (_, confirmed), confirmation in zip(window, confirmations, strict=True):
                if not confirmed.done():
                    confirmed.set_result(confirmation)


def _settle_unknown(window: Sequence[_Waiting]) -> None:
    for _, confirmed in window:
        if not confirmed.done():
            confirmed.set_result(Confirmation.UNKNOWN)
