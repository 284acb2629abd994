"""What the doctor makes of certificates, memory and addresses; broker and store are in the acceptance tests."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme

from worker.process.doctor import machine
from worker.process.doctor.finding import State
from worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def tls_server(authority: trustme.CA, days: int) -> AsyncIterator[int]:
    """Yield the port of a server whose certificate ends in so many days."""
    certificate = authority.issue_cert("localhost", not_after=datetime.now(UTC) + timedelta(days=days, hours=1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "localhost", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("days", "state", "detail"),
    [(300, State.OK, "valid for 300 more days"), (5, State.WARNING, "ends in 5 days")],
)
async def test_a_certificate_that_ends_soon_is_a_warning(days: int, state: State, detail: str, tmp_path: Path) -> None:
    authority, file = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    async with tls_server(authority, days) as port:
        settings = load_settings(rabbitmq_url=f"amqps://localhost:{port}/", rabbitmq_ca_file=str(file))
        (found,) = await machine._certificates(settings)
    assert (found.what, found.state, found.detail) == (f"certificate of the broker at localhost:{port}", state, detail)


async def test_a_certificate_of_an_unknown_authority_and_a_server_that_is_not_there_are_problems(
    tmp_path: Path,
) -> None:
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    async with tls_server(trustme.CA(), 300) as port:
        uri = f"mongodb://localhost:{port},localhost:1/?tls=true"
        found = await machine._certificates(load_settings(mongodb_uri=uri, mongodb_ca_file=str(stranger)))
    assert [one.state for one in found] == [State.PROBLEM, State.PROBLEM]
    assert "unable to get local issuer" in found[0].detail
    assert all(one.fix for one in found)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, []),
        ({"rabbitmq_url": "amqp://w:p@broker.example/"}, ["TLS of the broker"]),
        ({"mongodb_uri": "mongodb://w:p@db.example/"}, ["TLS of the store"]),
        ({"rabbitmq_url": "amqps://b.example/", "mongodb_uri": "mongodb+srv://db.example/"}, []),
    ],
)
def test_what_travels_readable_through_a_network_is_a_warning(variables: dict[str, str], expected: list[str]) -> None:
    found = list(machine._plaintext(load_settings(**variables)))
    assert [one.what for one in found] == expected
    assert not any("p@" in one.detail for one in found)


@pytest.mark.parametrize(("there_mib", "state"), [(10_000, State.OK), (400, State.WARNING)])
def test_memory_is_compared_with_what_a_full_window_takes(
    there_mib: int, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: there_mib * 1024 * 1024)
    assert machine._memory(load_settings(processes=1)).state is state
