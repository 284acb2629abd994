"""The gateway's connection to the broker: confirmed publishes to ingress, pipelined for all requests together."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from worker import contract
from worker.addresses import user_name
from worker.codes import Code
from worker.failure import Dependency, Failure
from worker.ports import Confirmation
from worker.rabbit.connection import Connection
from worker.rabbit.errors import BrokerError
from worker.rabbit.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from worker.flow.outage import Outage
    from worker.flow.reconnecting import Reconnecting
    from worker.ports import Outgoing
    from worker.settings import Settings

_BLOCKED: Final = "publish"
"""Names the outage of a broker that blocks publishers beside that of a lost connection; both are one outage of it."""

_Waiting = tuple["Outgoing", "asyncio.Future[Confirmation]"]


class Unavailable(Exception):  # noqa: N818 - a state of the world, not an error of ours
    """Nothing can be published now. The text is one sentence for the client."""


class Ingress:
    """Publishes to ingress while there is a connection, and reconnects for ever when there is none."""

    def __init__(self, settings: Settings, *, outage: Outage, reconnecting: Reconnecting) -> None:
        """Report what is wrong with the broker to *outage*."""
        self._settings = settings
        self._outage = outage
        self._blocking = outage.part(_BLOCKED)
        self._reconnecting = reconnecting
        self._connection: Connection | None = None
        self._publisher: Publisher | None = None
        self._waiting: list[_Waiting] = []
        self._windows: set[asyncio.Task[None]] = set()
        self._deadlines = _Deadlines(settings.gateway_confirm_timeout_ms / 1000)
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
        self._deadlines.add(confirmed)
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
                lasted = asyncio.get_running_loop().time() - began
                pause = self._reconnecting.pause_after(error.failure, lasted)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), pause)

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
        waiting, self._waiting = self._waiting, []
        window = _Window(self, [confirmed for _, confirmed in waiting])
        if self._publisher is None:
            window.fail(Unavailable(self.reason_against() or "The broker is away."))
            return
        messages = [message for message, _ in waiting]
        try:
            is_sent = self._publisher.publish_now(messages, window)
        except Exception:
            window.settle_rest()
            raise
        if not is_sent:
            task = asyncio.create_task(self._publish(self._publisher, messages, window), name="publish window")
            self._windows.add(task)
            task.add_done_callback(self._windows.discard)

    @staticmethod
    async def _publish(publisher: Publisher, messages: Sequence[Outgoing], window: _Window) -> None:
        try:
            for index, confirmation in enumerate(await publisher.publish(messages)):
                window.settle(index, 1, confirmation)
        finally:
            window.settle_rest()


class _Window:
    """The requests whose messages go out together; each of them is settled once."""

    __slots__ = ("_ingress", "_open")

    def __init__(self, ingress: Ingress, confirmed: Sequence[asyncio.Future[Confirmation]]) -> None:
        self._ingress = ingress
        self._open = dict(enumerate(confirmed))

    def settle(self, index: int, count: int, confirmation: Confirmation) -> None:
        for one in range(index, index + count):
            confirmed = self._open.pop(one, None)
            if confirmed is None:
                continue
            self._ingress.in_flight -= 1
            if not confirmed.done():
                confirmed.set_result(confirmation)

    def settle_rest(self) -> None:
        for index in tuple(self._open):
            self.settle(index, 1, Confirmation.UNKNOWN)

    def fail(self, reason: Unavailable) -> None:
        self._ingress.in_flight -= len(self._open)
        for confirmed in self._open.values():
            if not confirmed.done():
                confirmed.set_exception(reason)
        self._open.clear()


class _Deadlines:
    """Ends the wait for what is not confirmed within a time that is the same for all: one timer, not one for each."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: deque[tuple[float, asyncio.Future[Confirmation]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, confirmed: asyncio.Future[Confirmation]) -> None:
        loop, waiting = asyncio.get_running_loop(), self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        waiting.append((loop.time() + self._seconds, confirmed))
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        loop, waiting = asyncio.get_running_loop(), self._waiting
        while waiting and (waiting[0][1].done() or waiting[0][0] <= loop.time()):
            confirmed = waiting.popleft()[1]
            if not confirmed.done():
                confirmed.set_result(Confirmation.UNKNOWN)
        self._timer = loop.call_at(waiting[0][0], self._expire) if waiting else None
