"""TLS to the store: certificates are checked, and what is wrong with one is said."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trustme

from worker.failure import StoreUnavailable
from worker.mongo.client import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.services.broker import CertificateFiles

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("late_sockets"),
]


@asynccontextmanager
async def tls_in_front_of(
    store_uri: str, certificates: CertificateFiles, host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """Accept TLS on a port of a loopback address and pass it on in clear to the store; yields the port."""
    target = urlsplit(store_uri)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        store_reader, store_writer = await asyncio.open_connection(target.hostname, target.port)
        for source, sink in ((reader, store_writer), (store_reader, writer)):
            task = asyncio.create_task(_copy(source, sink))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    server = await asyncio.start_server(serve, host, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass
    finally:
        sink.close()


async def test_a_server_whose_authority_is_trusted_is_used(store_uri: str, certificates: CertificateFiles) -> None:
    async with tls_in_front_of(store_uri, certificates) as port:
        store = connect(f"mongodb://localhost:{port}/?tls=true", "anything", ca_file=str(certificates.authority))

        await store.ping()

        await store.close()


async def test_a_ca_file_alone_asks_for_tls(store_uri: str, certificates: CertificateFiles) -> None:
    """Whoever names an authority must not end up with a connection in clear."""
    store = connect(store_uri, "anything", ca_file=str(certificates.authority), selection_timeout_ms=500)

    with pytest.raises(StoreUnavailable):
        await store.ping()

    await store.close()


@pytest.mark.parametrize("authority", ["the system's", "another"])
async def test_a_server_of_an_unknown_authority_is_not_used(
    store_uri: str, certificates: CertificateFiles, tmp_path: Path, authority: str
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    ca_file = str(other) if authority == "another" else None
    async with tls_in_front_of(store_uri, certificates) as port:
        store = connect(f"mongodb://localhost:{port}/?tls=true", "anything", ca_file=ca_file, selection_timeout_ms=500)

        with pytest.raises(StoreUnavailable, match="TLS certificate not accepted"):
            await store.ping()

        await store.close()


async def test_a_certificate_of_another_host_is_not_accepted(store_uri: str, certificates: CertificateFiles) -> None:
    async with tls_in_front_of(store_uri, certificates, "127.0.0.2") as port:
        uri = f"mongodb://127.0.0.2:{port}/?tls=true"
        store = connect(uri, "anything", ca_file=str(certificates.authority), selection_timeout_ms=500)

        with pytest.raises(StoreUnavailable):
            await store.ping()

        await store.close()
