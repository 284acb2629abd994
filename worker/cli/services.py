"""Broker and store for one command, with their failures reported as `CommandError`: host and port, never a password."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from worker.cli.errors import CommandError, say
from worker.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from worker.mongo.client import Store
    from worker.rabbit.connection import Connection
    from worker.rabbit.errors import BrokerError
    from worker.settings import Settings

_MISSING_RIGHT: Final = re.compile("access to (exchange|queue|topic) ")
"""In the broker's text: the user may connect, but not do this."""


def command_settings(**overrides: Any) -> Settings:
    """Return the settings of this process, *overrides* before the environment, and set up its logs by them.

    A variable whose name is close to a setting's is logged: it would otherwise be ignored silently.
    Raises `ConfigurationError`.
    """
    import structlog

    from worker.ops.logging import configure_logging
    from worker.settings import load_settings, misspelt_variables

    settings = load_settings(**overrides)
    configure_logging(settings.log_format, settings.log_level)
    for name, meant in misspelt_variables().items():
        structlog.get_logger().warning("variable_not_read", variable=name, did_you_mean=meant)
    return settings


@asynccontextmanager
async def open_broker(settings: Settings) -> AsyncIterator[Connection]:
    """Yield a connection to the broker, closed at the end. Raises `CommandError` for every failure of the broker."""
    from worker.opening import broker_connection

    with _broker_failures_reported(settings):
        async with broker_connection(settings, "cim-worker command line") as connection:
            connection.on_blocked_change = _say_blocked
            yield connection


def _say_blocked(reason: str | None) -> None:
    """Say why a command stands still: the broker reads nothing that publishes while it has an alarm."""
    told = "takes publishes again" if reason is None else f"blocks publishers ({reason}): waiting until it is over"
    say(f"the broker {told}")


@asynccontextmanager
async def every_node(settings: Settings) -> AsyncIterator[list[Connection]]:
    """Yield a connection to each node that CIM_RABBITMQ_URL names and that answers; none where it names only one."""
    import asyncio

    from worker.opening import broker_connection
    from worker.rabbit.errors import BrokerError

    urls = settings.rabbitmq_url.get_secret_value().split(",")
    async with AsyncExitStack() as stack:
        opening = [
            stack.enter_async_context(broker_connection(settings, "cim-worker command line", url=url))
            for url in (urls if len(urls) > 1 else ())
        ]
        opened = await asyncio.gather(*opening, return_exceptions=True)
        for one in opened:
            if isinstance(one, BaseException) and not isinstance(one, BrokerError):
                raise one
        yield [one for one in opened if not isinstance(one, BaseException)]


@asynccontextmanager
async def open_store(settings: Settings, *, timeout_ms: int | None = None) -> AsyncIterator[Store]:
    """Yield the store, closed at the end; each operation may take *timeout_ms*, by default the configured time.

    Raises `CommandError` for every failure of the store.
    """
    with _store_failures_reported(settings):
        async with store_client(settings, "cim-worker command line", timeout_ms=timeout_ms) as store:
            yield store


@asynccontextmanager
async def store_client(settings: Settings, name: str, *, timeout_ms: int | None = None) -> AsyncIterator[Store]:
    """Yield the store, which knows this client as *name*, closed at the end; nothing is connected for it yet.

    Raises `OperatorFault` for an address that cannot be used.
    """
    from worker.opening import store_of

    store = store_of(settings, name, timeout_ms=timeout_ms)
    try:
        yield store
    finally:
        await store.close()


@contextmanager
def _broker_failures_reported(settings: Settings) -> Iterator[None]:
    from worker.addresses import address
    from worker.rabbit.errors import BrokerError

    try:
        yield
    except BrokerError as error:
        raise _broker_failure(error, address(settings.rabbitmq_url)) from error


def _broker_failure(error: BrokerError, address: str) -> CommandError:
    from worker.rabbit.errors import ACCESS_REFUSED, NOT_FOUND, AccessRefused, ChannelClosed

    if isinstance(error, AccessRefused) and _MISSING_RIGHT.search(str(error)):
        fix = "give the user this right: deploy/README.md lists the rights of each user"
        text = f"the broker at {address} refused the operation: {ACCESS_REFUSED} {error}; {fix}"
        return CommandError(ExitCode.CONFIGURATION, text)
    if isinstance(error, AccessRefused):
        fix = "check user, password and virtual host in CIM_RABBITMQ_URL"
        return CommandError(ExitCode.CONFIGURATION, f"the broker at {address} refused the connection: {error}; {fix}")
    if isinstance(error, ChannelClosed):
        fix = "run `cim-worker topology apply`" if error.reply_code == NOT_FOUND else "see `cim-worker topology check`"
        return CommandError(ExitCode.CONFIGURATION, f"the broker at {address} refused the operation: {error}; {fix}")
    text = f"the broker at {address} cannot be reached: {error}; start it or correct CIM_RABBITMQ_URL"
    return CommandError(ExitCode.BROKER_UNREACHABLE, text)


@contextmanager
def _store_failures_reported(settings: Settings) -> Iterator[None]:
    from worker.addresses import address
    from worker.failure import AdapterError, OperatorFault, StoreUnavailable

    at = address(settings.mongodb_uri)
    try:
        yield
    except StoreUnavailable as error:
        text = f"the store at {at} does not answer; start it or correct CIM_MONGODB_URI"
        if "certificate" in str(error):
            text = f"the store at {at} has a TLS certificate that is not trusted; check CIM_MONGODB_CA_FILE"
        raise CommandError(ExitCode.STORE_UNREACHABLE, text) from error
    except OperatorFault as error:
        raise CommandError(
            ExitCode.CONFIGURATION, f"the store at {at} refused the connection: {error}; check CIM_MONGODB_URI"
        ) from error
    except AdapterError as error:
        raise CommandError(ExitCode.UNEXPECTED, f"the store at {at} refused the operation: {error}") from error
