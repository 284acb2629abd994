"""What the doctor makes of what it was told; that it asks the right questions is in the acceptance tests."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme

from worker.mongo.server import ServerFacts
from worker.process.doctor import limits, machine, store
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
        ({"rabbitmq_url": "amqps://w:p@b-1.example/,amqp://w:p@b-2.example/"}, ["TLS of the broker"]),
        ({"rabbitmq_url": "amqp://localhost/,amqp://127.0.0.1:5673/"}, []),
        ({"rabbitmq_management_url": "http://w:p@b.example:15672"}, ["TLS of the management API"]),
    ],
)
def test_what_travels_readable_through_a_network_is_a_warning(variables: dict[str, str], expected: list[str]) -> None:
    found = list(machine._plaintext(load_settings(**variables)))
    assert [one.what for one in found] == expected
    assert not any("p@" in one.detail for one in found)
    assert all(one.fix for one in found)


async def test_each_node_of_a_cluster_and_the_management_api_show_their_certificate(tmp_path: Path) -> None:
    authority, file = trustme.CA(), tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    async with tls_server(authority, 300) as fine, tls_server(authority, 5) as late:
        settings = load_settings(
            rabbitmq_url=f"amqps://localhost:{fine}/,amqps://localhost:{late}/",
            rabbitmq_management_url=f"https://localhost:{late}",
            rabbitmq_ca_file=str(file),
        )
        found = {one.what: one.state for one in await machine._certificates(settings)}
    assert found == {
        f"certificate of the broker at localhost:{fine}": State.OK,
        f"certificate of the broker at localhost:{late}": State.WARNING,
        f"certificate of the management API at localhost:{late}": State.WARNING,
    }


@pytest.mark.parametrize(("there_mib", "state"), [(10_000, State.OK), (400, State.WARNING)])
def test_memory_is_compared_with_what_a_full_window_takes(
    there_mib: int, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: there_mib * 1024 * 1024)
    assert machine._memory(load_settings(processes=1)).state is state


@pytest.mark.parametrize(
    ("version", "state", "detail"),
    [
        ((3, 9, 29), State.PROBLEM, "3.9.29 knows no dead-lettering that cannot lose a message"),
        ((3, 10, 0), State.WARNING, "no more corrections"),
        ((3, 13, 7), State.WARNING, "no more corrections"),
        ((4, 0, 0), State.OK, "4.0.0"),
        ((4, 2, 5), State.WARNING, "known security holes"),
        ((4, 2, 6), State.OK, "4.2.6"),
        ((4, 3, 2), State.WARNING, "known security holes"),
        ((4, 3, 3), State.OK, "4.3.3"),
    ],
)
def test_a_broker_is_judged_by_its_version(version: tuple[int, ...], state: State, detail: str) -> None:
    found = limits.version(version)
    assert (found.state, detail in found.detail) == (state, True)


@pytest.mark.parametrize(
    ("seconds", "state"),
    [(0, State.WARNING), (None, State.WARNING), (1, State.OK), (60, State.OK), (61, State.WARNING)],
)
def test_a_heartbeat_that_is_off_or_slow_is_a_warning(seconds: int | None, state: State) -> None:
    found = limits.heartbeat(seconds)
    assert (found.state, "CIM_RABBITMQ_HEARTBEAT_SECONDS" in found.fix) == (state, state is not State.OK)


@pytest.mark.parametrize(
    ("frame", "state"), [(4096, State.WARNING), (8191, State.WARNING), (8192, State.OK), (131_072, State.OK)]
)
def test_a_frame_that_cuts_the_reasons_of_letters_is_a_warning(frame: int, state: State) -> None:
    assert limits.frame_size(frame).state is state


@pytest.mark.parametrize(
    ("limit", "state", "detail"),
    [
        (None, State.OK, "and the events made of them"),
        (999, State.WARNING, "the broker takes 999 bytes, CIM_MAX_MESSAGE_BYTES is 1000"),
        (1000, State.WARNING, "events of messages near our 1000 are larger, and are stored"),
    ],
)
def test_the_brokers_limit_is_compared_with_our_messages_and_their_events(
    limit: int | None, state: State, detail: str
) -> None:
    found = limits.message_size(limit, 1000)
    assert (found.state, detail in found.detail) == (state, True)


@pytest.mark.parametrize(
    ("nodes", "state", "detail"),
    [
        ([{"name": name, "mem_alarm": False, "disk_free_alarm": False} for name in "ab"], State.OK, "none on 2 nodes"),
        ([{"name": "a"}], State.UNCHECKED, "a does not say yet"),
        ([{"name": "a", "mem_alarm": True}], State.PROBLEM, "raised: memory of a; publishers wait"),
        (
            [{"name": "a", "disk_free_alarm": True}, {"name": "b", "mem_alarm": True, "disk_free_alarm": True}],
            State.PROBLEM,
            "raised: disk of a, memory of b, disk of b; publishers wait",
        ),
    ],
)
def test_alarms_of_memory_and_disk_are_named_with_their_node(
    nodes: list[dict[str, object]], state: State, detail: str
) -> None:
    found = limits.alarms(nodes)
    assert (found.state, found.detail) == (state, detail)


def queue(name: str = "cim.ingress", policy: object = None, **arguments: object) -> dict[str, object]:
    """Return a quorum queue as the management API shows it: a broker without policies says [] for none."""
    given = {f"x-{key.replace('_', '-')}": value for key, value in {"queue_type": "quorum", **arguments}.items()}
    return {"name": name, "arguments": given, "effective_policy_definition": policy or []}


@pytest.mark.parametrize(
    ("queues", "state"),
    [
        ([queue()], State.OK),
        ([queue(policy={"consumer-timeout": 600_000})], State.OK),
        ([queue(policy={"consumer-timeout": 599_999})], State.WARNING),
        ([queue(consumer_timeout=60_000, policy={"consumer-timeout": 3_600_000})], State.WARNING),
        ([queue("crm.slow", policy={"consumer-timeout": 1000})], State.OK),
        ([queue("cim.outcomes", queue_type="stream", policy={"consumer-timeout": 1000})], State.OK),
    ],
)
def test_a_queue_that_takes_deliveries_back_before_an_outage_lets_go_of_them_is_a_warning(
    queues: list[dict[str, object]], state: State
) -> None:
    assert [one.state for one in limits.consumer_timeouts(queues)] == [state]


@pytest.mark.parametrize(
    ("version", "nodes", "queues", "states"),
    [
        ((4, 2, 9), 3, [queue()], []),
        ((4, 3, 6), 1, [queue()], [State.OK]),
        ((4, 3, 6), 3, [queue()], [State.WARNING]),
        ((4, 3, 6), 3, [queue(policy={"consumer-disconnected-timeout": 2000})], [State.OK]),
        ((4, 3, 6), 3, [queue(policy={"consumer-disconnected-timeout": 60_000})], [State.WARNING]),
        ((4, 3, 6), 3, [queue(consumer_disconnected_timeout=2000)], [State.OK]),
    ],
)
def test_from_4_3_on_a_cluster_needs_the_policy_for_consumers_of_a_node_that_dies(
    version: tuple[int, ...], nodes: int, queues: list[dict[str, object]], states: list[State]
) -> None:
    found = list(limits.disconnected_consumers(version, [{"name": str(number)} for number in range(nodes)], queues))
    assert [one.state for one in found] == states
    for one in found:
        assert ("set_policy" in one.fix) == ("cim.ingress" in one.detail) == (one.state is State.WARNING)
    unseen = limits.subjects_of_management(version)
    assert ("deliveries of a node that dies" in unseen) == (version >= (4, 3))


@pytest.mark.parametrize(
    ("skew", "state", "detail"),
    [
        (0, State.OK, "within 5 s"),
        (5_000, State.OK, "within 5 s"),
        (5_001, State.WARNING, "5 s ahead of this machine's"),
        (-7_200_000, State.WARNING, "7200 s behind this machine's"),
        (None, State.UNCHECKED, "does not tell its time"),
    ],
)
def test_clocks_that_differ_are_a_warning(skew: int | None, state: State, detail: str) -> None:
    now = 1_764_000_000_000
    found = store._clock(ServerFacts((8, 0), "rs0", 3, 0, None if skew is None else now + skew), now)
    assert (found.state, detail in found.detail) == (state, True)


@pytest.mark.parametrize(
    ("facts", "version", "writes"),
    [
        (ServerFacts((4, 0, 9), "rs0", 3, 0, 0), State.PROBLEM, State.OK),
        (ServerFacts((6, 0, 1), "rs0", 3, 0, 0), State.WARNING, State.OK),
        (ServerFacts((8, 0, 4), "rs0", 2, 1, 0), State.OK, State.WARNING),
        (ServerFacts((8, 0, 4), None, 0, 0, 0), State.OK, State.WARNING),
    ],
)
def test_an_old_store_one_without_a_replica_set_and_one_with_an_arbiter_are_named(
    facts: ServerFacts, version: State, writes: State
) -> None:
    found = {one.what: one for one in store._server(facts)}
    assert (found["version"].state, found["write concern"].state) == (version, writes)
    assert all(one.fix for one in found.values() if one.state is not State.OK)
