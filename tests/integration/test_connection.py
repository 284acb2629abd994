"""Opening, refusing and losing connections, with errors in our words and without credentials."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trustme

from tests.services.services import private_broker
from tests.support.amqp import connected, fill
from tests.support.eventually import eventually_async
from worker.failure import Dependency, classify
from worker.rabbit.connection import Connection
from worker.rabbit.errors import AccessRefused, BrokerError, BrokerUnreachable, ChannelClosed, ConnectionLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.services.broker import CertificateFiles, LocalBroker
    from tests.services.services import Broker, Store

PASSWORD = "open-sesame-4711"


def with_password(url: str, *, password: str = PASSWORD, user: str = "guest") -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}").geturl()


async def refusal(url: str, **options: object) -> BrokerError:
    """Return the error of an opening that must fail, checked for what must not be in it."""
    with pytest.raises(BrokerError) as caught:
        await Connection.open(url, name="test", **options)  # type: ignore[arg-type]
    failure = classify(caught.value)
    assert failure.dependency is Dependency.BROKER
    assert PASSWORD not in f"{caught.value!r} {caught.value} {failure}"
    return caught.value


async def test_of_several_nodes_one_that_answers_is_enough_whichever_is_tried_first(vhost_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen, socket.create_server(("127.0.0.1", 0)) as gone:
        silent, refused = (f"amqp://guest:guest@127.0.0.1:{one.getsockname()[1]}/" for one in (frozen, gone))
        gone.close()
        for _ in range(6):
            connection = await Connection.open(f"{silent},{refused},{vhost_url}", name="test", timeout_seconds=3)
            assert connection.is_open
            await connection.close()


async def test_a_node_that_did_not_answer_a_moment_ago_is_tried_last(vhost_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        silent = f"amqp://guest:guest@127.0.0.1:{frozen.getsockname()[1]}/"
        for _ in range(6):
            started = time.monotonic()
            connection = await Connection.open(f"{silent},{vhost_url}", name="test", timeout_seconds=30, avoid=silent)
            assert time.monotonic() - started < 10
            assert connection.url == vhost_url
            await connection.close()


async def test_when_no_node_answers_the_whole_limit_is_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        url = f"amqp://guest:guest@127.0.0.1:{frozen.getsockname()[1]}/"
        started = time.monotonic()
        assert isinstance(await refusal(f"{url},{url}", timeout_seconds=1), BrokerUnreachable)
        assert 0.9 < time.monotonic() - started < 3


async def test_an_open_connection_knows_its_broker_and_closes_politely(vhost_url: str) -> None:
    async with connected(vhost_url) as connection:
        assert connection.is_open
        assert connection.server_version >= (3, 8)
        assert connection.blocked_reason is None
    assert not connection.is_open
    assert "closed by us" in str(connection.closed.result())
    with pytest.raises(ConnectionLost):
        await connection.channel()
    await connection.close()


async def test_nobody_listening_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"amqp://guest:{PASSWORD}@127.0.0.1:{unused.getsockname()[1]}/"
        error = await refusal(url)
    assert isinstance(error, BrokerUnreachable)
    assert "refused" in str(error).lower()


async def test_a_name_nobody_knows_is_unreachable() -> None:
    error = await refusal(f"amqp://guest:{PASSWORD}@no-such-host.invalid/")
    assert isinstance(error, BrokerUnreachable)


@asynccontextmanager
async def server(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Yield the port of a server that accepts connections and says nothing."""
    writers = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for writer in writers:
            writer.close()


async def test_a_broker_that_accepts_and_says_nothing_is_unreachable_in_time() -> None:
    async with server() as port:
        started = time.monotonic()
        error = await refusal(f"amqp://guest:{PASSWORD}@127.0.0.1:{port}/", timeout_seconds=0.5)
        assert isinstance(error, BrokerUnreachable)
        assert time.monotonic() - started < 5


async def test_wrong_credentials_are_an_operators_matter_in_the_brokers_words(vhost_url: str) -> None:
    error = await refusal(with_password(vhost_url))
    assert isinstance(error, AccessRefused)
    assert "Login was refused" in str(error)


async def test_a_virtual_host_that_does_not_exist_is_an_operators_matter(broker: Broker) -> None:
    url = urlsplit(broker.url)._replace(path="/no-such-virtual-host").geturl()
    error = await refusal(url)
    assert isinstance(error, AccessRefused)
    assert "no-such-virtual-host" in str(error)


async def test_a_virtual_host_without_rights_is_an_operators_matter(broker: Broker, vhost_url: str) -> None:
    broker.management.create_user("outsider", PASSWORD)
    error = await refusal(with_password(vhost_url, user="outsider"))
    assert isinstance(error, AccessRefused)
    assert "refused for user 'outsider'" in str(error)


async def test_a_limit_of_connections_is_told_in_the_brokers_words(broker: Broker, vhost_url: str) -> None:
    vhost = urlsplit(vhost_url).path[1:]
    broker.management.request("PUT", f"/vhost-limits/{vhost}/max-connections", {"value": 0})
    error = await refusal(vhost_url)
    assert isinstance(error, AccessRefused)
    assert "connection limit (0) is reached" in str(error)


async def test_a_limit_of_channels_is_an_operators_matter_too(rabbitmq_root: Path | None) -> None:
    with private_broker(chroot=rabbitmq_root, configuration=["channel_max = 2"], say=lambda _line: None) as broker:
        async with connected(broker.url) as connection:
            for _ in range(2):
                await connection.channel()
            with pytest.raises(AccessRefused, match="allows 2 channels") as caught:
                await connection.channel()
            assert "channel_max" in str(caught.value)
            assert connection.is_open


async def test_something_else_than_a_broker_is_told_in_words(store: Store) -> None:
    port = urlsplit(store.uri).port
    error = await refusal(f"amqp://guest:{PASSWORD}@127.0.0.1:{port}/", timeout_seconds=5)
    assert isinstance(error, BrokerUnreachable)
    assert "Error" not in str(error), "words, no class names"


async def test_a_connection_the_broker_ends_says_why_and_takes_its_channels_along(
    broker: Broker, vhost_url: str
) -> None:
    connection = await Connection.open(vhost_url, name="to be ended")
    channel = await connection.channel()
    waiting = asyncio.create_task(channel.call("queue_declare", "never", passive=False))
    broker.delete_vhost(urlsplit(vhost_url).path[1:])
    reason = await asyncio.wait_for(asyncio.shield(connection.closed), 10)
    assert isinstance(reason, BrokerError)
    with contextlib.suppress(BrokerError):
        await asyncio.wait_for(waiting, 5)
    assert channel.closed.done()
    assert not connection.is_open


async def test_a_cut_connection_is_lost(breakable_broker: LocalBroker) -> None:
    connection = await Connection.open(breakable_broker.create_vhost("cut"), name="to be cut")
    breakable_broker.kill()
    reason = await asyncio.wait_for(asyncio.shield(connection.closed), 10)
    assert isinstance(reason, ConnectionLost)
    assert "Error" not in str(reason), "words, no class names"
    await connection.close()


async def test_a_refused_operation_costs_its_channel_only(vhost_url: str) -> None:
    async with connected(vhost_url) as connection:
        channel = await connection.channel()
        with pytest.raises(ChannelClosed) as caught:
            await channel.call("queue_declare", "missing", passive=True)
        assert caught.value.reply_code == 404
        with pytest.raises(ChannelClosed):
            await channel.call("queue_declare", "missing", passive=True)
        await channel.close()
        assert (await (await connection.channel()).call("queue_declare", "there")).queue == "there"


async def test_an_operation_without_permission_is_told_as_such(broker: Broker, vhost_url: str) -> None:
    fill(vhost_url, "q")
    broker.management.create_user("reader", PASSWORD)
    broker.management.set_permissions("reader", urlsplit(vhost_url).path[1:], configure="^$", write="^$", read=".*")
    async with connected(with_password(vhost_url, user="reader")) as connection:
        channel = await connection.channel()
        with pytest.raises(AccessRefused):
            await channel.call("queue_delete", "q")


async def test_an_alarm_of_the_broker_is_told_and_its_end(breakable_broker: LocalBroker) -> None:
    url = breakable_broker.create_vhost("alarm")
    fill(url, "q", arguments={"x-queue-type": "classic"})
    changes: list[str | None] = []
    async with connected(url) as connection:
        connection.on_blocked_change = changes.append
        channel = await connection.channel()
        breakable_broker.set_memory_alarm(True)
        try:
            channel.raw.basic_publish("", "q", b"a connection that publishes is blocked")
            await eventually_async(lambda: connection.blocked_reason)
        finally:
            breakable_broker.set_memory_alarm(False)
        await eventually_async(lambda: len(changes) == 2)
        assert changes[0]
        assert connection.blocked_reason is changes[1] is None


# -- TLS --------------------------------------------------------------------------------------------------------------


async def test_amqps_with_a_checked_certificate(breakable_broker: LocalBroker, certificates: CertificateFiles) -> None:
    async with connected(breakable_broker.tls_url, ca_file=str(certificates.authority)) as connection:
        assert connection.is_open
        assert connection.raw._transport._sock.version().startswith("TLS")


async def test_a_certificate_of_an_unknown_authority_is_refused(
    breakable_broker: LocalBroker, certificates: CertificateFiles
) -> None:
    error = await refusal(with_password(breakable_broker.tls_url))
    assert isinstance(error, BrokerUnreachable)
    assert "certificate" in str(error).lower()
    assert certificates.authority.exists()


async def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("elsewhere.example").configure_cert(context)
    async with server(context) as port:
        url = f"amqps://guest:{PASSWORD}@localhost:{port}/"
        error = await refusal(url, ca_file=str(tmp_path / "ca.pem"), timeout_seconds=5)
    assert isinstance(error, BrokerUnreachable)
    assert "certificate" in str(error).lower()


async def test_a_file_of_authorities_that_is_not_there_is_told_by_name() -> None:
    error = await refusal(f"amqps://guest:{PASSWORD}@localhost:1/", ca_file="/no/such/authority.pem")
    assert isinstance(error, BrokerUnreachable)
    assert "/no/such/authority.pem" in str(error)
