"""`cim-worker gateway` as a process: its composition, and its life from the port to the last answer."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import random
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvloop

from worker.addresses import address
from worker.flow.outage import Outage
from worker.flow.reconnecting import Reconnecting
from worker.flow.tasks import cancel_and_wait
from worker.ops.checks import Check
from worker.ops.gateway_metrics import GatewayMetrics
from worker.ops.logging import configure_logging
from worker.ops.reporter import LoggingReporter
from worker.process.clock import SystemClock
from worker.process.supervisor import open_http_port
from worker.settings import ConfigurationError
from worker.web.gateway.activities import Activities
from worker.web.gateway.application import application
from worker.web.gateway.callers import Door, Roles, StaticTokens, TokenFileError
from worker.web.gateway.ingress import Ingress
from worker.web.gateway.reading import BODY_SECONDS, MAX_HEAD_BYTES, MAX_WAIT_SECONDS, Budget
from worker.web.gateway.receipts import Receipts
from worker.web.health import health_server
from worker.web.listening import ListenError, listen
from worker.web.server import Limits, WebServer

if TYPE_CHECKING:
    from worker.process.signals import StopSignals
    from worker.settings import Settings
    from worker.web.gateway.callers import Authentication
    from worker.web.gateway.signed import SignedTokens


def run_gateway(settings: Settings, signals: StopSignals) -> None:
    """Run the gateway until a signal. Blocking. Raises `ConfigurationError`."""
    configure_logging(settings.log_format, settings.log_level, in_background=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, signals))


async def _run(settings: Settings, signals: StopSignals) -> None:
    kinds = authentication(settings)
    if not kinds and not is_loopback(settings.gateway_host):
        raise ConfigurationError(
            f"CIM_GATEWAY_HOST: {settings.gateway_host} can be reached from other machines, and nobody would be asked "
            "who he is; set CIM_GATEWAY_TOKENS_FILE or CIM_GATEWAY_JWKS, or listen on 127.0.0.1"
        )
    listeners = _listen(settings)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.call_soon_threadsafe(stopping.set)  # wakes the loop, which a handler alone does not

    signals.attach(stop)
    try:
        process = _Process(settings, kinds, listeners, stopping)
        gc.collect()
        gc.freeze()  # code is never garbage, and each full collection would search it
        await process.run()
    finally:
        signals.attach(lambda: None)


@dataclass(frozen=True, slots=True)
class _Listeners:
    """The open ports."""

    requests: socket.socket
    operators: socket.socket | None
    """For health and metrics."""


def _listen(settings: Settings) -> _Listeners:
    try:
        requests = listen(settings.gateway_host, settings.gateway_port)
    except ListenError as error:
        raise ConfigurationError(f"CIM_GATEWAY_PORT: {error}; choose another one") from None
    try:
        return _Listeners(requests, open_http_port(settings))
    except ConfigurationError:
        requests.close()
        raise


class _Process:
    """What lives from the first connection to the last answer."""

    def __init__(
        self, settings: Settings, kinds: list[Authentication], listeners: _Listeners, stopping: asyncio.Event
    ) -> None:
        self._settings = settings
        self._kinds = kinds
        self._stopping = stopping
        self._log = structlog.get_logger()
        metrics = self._metrics = GatewayMetrics()
        reporter, clock = LoggingReporter(metrics.broker), SystemClock()
        self._ingress = Ingress(
            settings,
            outage=Outage("broker", address=address(settings.rabbitmq_url), reporter=reporter, clock=clock),
            reconnecting=Reconnecting(random=random.random),
        )
        receipts = Receipts()
        self._ingress.on_connected.append(receipts.attach)
        budget = Budget(settings.max_bytes_in_flight)
        activities = Activities(
            Door(kinds),
            self._ingress,
            receipts,
            max_bytes=settings.max_message_bytes,
            budget=budget,
            max_in_flight=settings.gateway_max_in_flight,
            answered=metrics.answered,
        )
        metrics.in_flight = lambda: self._ingress.in_flight
        metrics.body_bytes = lambda: budget.held
        metrics.reachable = lambda: self._ingress.reason_against() is None
        app = application(
            activities,
            self._reasons_not_ready,
            cors_origins=settings.gateway_cors_origins,
            authenticated=bool(kinds),
        )
        self._servers = [WebServer(app, listeners.requests, name="gateway", limits=_limits(settings))]
        if listeners.operators is not None:
            self._servers.append(
                health_server(
                    listeners.operators,
                    live=lambda: (True, {"live": True}),
                    checks=self._checks,
                    exposition=metrics.exposition,
                )
            )

    async def run(self) -> None:
        leaving = asyncio.Event()
        connecting = asyncio.create_task(self._ingress.run(leaving), name="broker")
        preparing = [asyncio.create_task(kind.prepare()) for kind in self._kinds]
        try:
            for server in self._servers:
                await server.start()
            self._log.info(
                "gateway_listening",
                host=self._settings.gateway_host,
                port=self._servers[0].port,
                authentication=bool(self._kinds),
                broker=address(self._settings.rabbitmq_url),
            )
            for operators in self._servers[1:]:
                self._log.info("http_listening", host=self._settings.http_host, port=operators.port)
            await self._stopping.wait()
        finally:
            for server in self._servers:
                await server.stop()
            await cancel_and_wait(preparing)
            leaving.set()
            await connecting
        self._log.info("gateway_stopped")

    def _checks(self) -> list[Check]:
        stopping = "it is stopping" if self._stopping.is_set() else None
        return [Check("running", stopping), Check("broker", self._ingress.reason_against())]

    def _reasons_not_ready(self) -> list[str]:
        return [check.reason for check in self._checks() if check.reason is not None]


def _limits(settings: Settings) -> Limits:
    confirm_seconds = settings.gateway_confirm_timeout_ms / 1000
    return Limits(
        connections=settings.gateway_max_connections,
        head_bytes=MAX_HEAD_BYTES,
        request_seconds=BODY_SECONDS + confirm_seconds + MAX_WAIT_SECONDS + 1,
        keep_alive_seconds=30,
        drain_seconds=max(1, settings.drain_grace_ms // 1000),
    )


def authentication(settings: Settings) -> list[Authentication]:
    """Return the ways callers are known by, as *settings* say. Raises `ConfigurationError`."""
    roles = Roles(settings.gateway_role_senders)
    kinds: list[Authentication] = []
    if settings.gateway_tokens_file is not None:
        try:
            kinds.append(StaticTokens(Path(settings.gateway_tokens_file), roles, time.monotonic))
        except TokenFileError as error:
            file = settings.gateway_tokens_file
            raise ConfigurationError(f"CIM_GATEWAY_TOKENS_FILE: {file} {error}") from None
    if settings.gateway_jwks is not None:
        kinds.append(_signed_tokens(settings, settings.gateway_jwks, roles))
    if roles.are_asked and not kinds:
        raise ConfigurationError(
            "CIM_GATEWAY_ROLE_SENDERS: without CIM_GATEWAY_TOKENS_FILE or CIM_GATEWAY_JWKS nobody has a role"
        )
    return kinds


def _signed_tokens(settings: Settings, source: str, roles: Roles) -> SignedTokens:
    try:
        from worker.web.gateway import signed  # noqa: PLC0415 - it needs what an extra installs
    except ModuleNotFoundError:
        raise ConfigurationError(
            "CIM_GATEWAY_JWKS: signed tokens need a library that is missing; run `pip install '.[jwt]'` in the clone"
        ) from None
    issuer, audience = settings.gateway_jwt_issuer, settings.gateway_jwt_audience
    if not issuer or not audience:
        raise ConfigurationError(
            "CIM_GATEWAY_JWKS: set CIM_GATEWAY_JWT_ISSUER and CIM_GATEWAY_JWT_AUDIENCE too, or tokens that were made "
            "for other services would be taken"
        )
    if not signed.is_address(source):
        try:
            signed.load_keys(source)
        except signed.KeysError as error:
            raise ConfigurationError(f"CIM_GATEWAY_JWKS: {source} {error}") from None
    expected = signed.Expected(issuer, audience, settings.gateway_jwt_user_claim, settings.gateway_jwt_roles_claim)
    return signed.SignedTokens(signed.Keys(source, time.monotonic), expected, roles, time.time)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach *host*."""
    try:
        found = {str(item[4][0]) for item in socket.getaddrinfo(host or None, 0, flags=socket.AI_PASSIVE)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)
