"""What only the management API shows, on a real broker: bindings, policies, and what a modest user may not compare."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.support.amqp import connected, plain
from tests.support.deliveries import RecordingReporter
from worker.process.preflight import warn_of_hazards
from worker.rabbit.hazards import compare_unchecked, hazards
from worker.rabbit.management import Management, ManagementUnavailable
from worker.rabbit.topology import Finding, Topology, apply, check, problems, wanted
from worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.services.services import Broker

TIERS = (("1s", 1), ("10s", 10))


class Watched:
    """One virtual host with the topology applied, seen by a user that may only watch."""

    def __init__(self, broker: Broker, url: str) -> None:
        self.vhost, self.url, self.management = urlsplit(url).path[1:], url, broker.management
        self.management.create_user("watcher", "pw", "monitoring")
        self.management.set_permissions("watcher", self.vhost, configure="^$", write="^$", read="^$")
        self.api = Management(broker.management.url.replace("guest:guest", "watcher:pw"), self.vhost)
        self.topology: Topology = asyncio.run(self._apply())

    async def _apply(self) -> Topology:
        async with connected(self.url) as connection:
            topology = wanted(TIERS, 20, connection.server_version)
            await apply(connection, topology)
            return topology

    def found(self) -> dict[str, str]:
        """Return name and problem of what is wrong."""
        return {one.name: str(one.problem) for one in problems(asyncio.run(hazards(self.api, self.topology)))}

    def policy(self, definition: dict[str, Any], pattern: str, *, priority: int = 0, name: str = "harm") -> None:
        body = {"pattern": pattern, "definition": definition, "apply-to": "all", "priority": priority}
        self.management.request("PUT", f"/policies/{self.vhost}/{name}", body)

    def compared(self) -> list[Finding]:
        """Return what the watcher's own check, and the management API, say of what is there."""

        async def look() -> list[Finding]:
            async with connected(self.url.replace("guest:guest", "watcher:pw")) as connection:
                return await compare_unchecked(self.api, self.topology, await check(connection, self.topology))

        return asyncio.run(look())


@pytest.fixture
def watched(broker: Broker, vhost_url: str) -> Iterator[Watched]:
    yield Watched(broker, vhost_url)
    broker.management.request("DELETE", "/users/watcher")


def test_a_topology_that_was_just_applied_has_nothing_against_it(watched: Watched) -> None:
    assert watched.found() == {}
    assert all(one.problem is None and one.unchecked is None for one in watched.compared())


def test_a_missing_binding_is_seen(watched: Watched) -> None:
    with plain(watched.url) as channel:
        channel.queue_unbind("cim.dead-letters", "cim.dead-letters", "#")
    assert watched.found() == {"cim.dead-letters → cim.dead-letters": "missing"}


def test_conversations_that_are_not_on_the_hub_are_seen(watched: Watched) -> None:
    with plain(watched.url) as channel:
        for number in range(5):
            channel.exchange_declare(f"conversation.c-{number}", "fanout", durable=True)
    (text,) = watched.found().values()
    assert text.startswith("5 of 5 exchanges are not bound")
    assert text.endswith("conversation.c-0, conversation.c-1, conversation.c-2 …")
    with plain(watched.url) as channel:
        channel.exchange_bind("conversation.c-0", "cim.conversations", "c-0")
    assert watched.found() == {}, "a conversation that was just closed is rightly off the hub"
    every = asyncio.run(hazards(watched.api, watched.topology))
    (noted,) = [one for one in every if one.unchecked and one.kind != "leaders"]  # in a cluster one node leads all
    assert str(noted.unchecked).startswith("4 of 5 exchanges are not bound")


@pytest.mark.parametrize(
    ("definition", "pattern", "name", "text"),
    [
        ({"alternate-exchange": "amq.fanout"}, "^cim.conversations$", "exchange cim.conversations", "not stored"),
        ({"alternate-exchange": "amq.fanout"}, "^conversation", "exchange conversation.…", "not stored"),
        ({"overflow": "drop-head", "max-length": 5}, "^cim.ingress$", "queue cim.ingress", "pushes out"),
        ({"message-ttl": 5}, "^cim.ingress.waiting$", "queue cim.ingress.waiting", "into dead letters"),
        ({"message-ttl": 5}, "^cim.dead-letters$", "queue cim.dead-letters", "destroys letters"),
        ({"message-ttl": 5}, "1s$", "queue cim.ingress.retry.1s", "shorter than the delay"),
        ({"expires": 60_000}, "^cim.dead-letters.parked$", "queue cim.dead-letters.parked", "deletes the queue"),
        ({"delivery-limit": 3}, "^cim.ingress$", "queue cim.ingress", "lower than ours"),
        ({"delivery-limit": 3}, "^cim.dead-letters$", "queue cim.dead-letters", "are destroyed"),
    ],
)
def test_a_policy_that_loses_messages_is_named_with_what_it_does(
    watched: Watched, definition: dict[str, Any], pattern: str, name: str, text: str
) -> None:
    watched.policy(definition, pattern)
    found = watched.found()
    assert set(found) == {f"harm on {name}"}
    assert text in found[f"harm on {name}"]


def test_a_policy_that_loses_nothing_or_is_not_in_force_is_let_be(watched: Watched) -> None:
    watched.policy({"max-length": 1_000_000, "delivery-limit": 50}, "^cim.ingress$", priority=9)
    watched.policy({"overflow": "drop-head"}, "^cim.ingress$", name="overruled")
    watched.policy({"message-ttl": 5, "alternate-exchange": "x"}, "^others", name="elsewhere")
    assert watched.found() == {}


def test_an_operators_policy_counts_beside_the_other(watched: Watched) -> None:
    watched.policy({"max-length": 1_000_000}, "^cim", priority=9)
    body = {"pattern": "^cim.dead-letters$", "definition": {"message-ttl": 5}, "apply-to": "queues"}
    watched.management.request("PUT", f"/operator-policies/{watched.vhost}/house-rules", body)
    assert set(watched.found()) == {"house-rules on queue cim.dead-letters"}


def test_a_user_that_may_not_compare_learns_the_differences_here(watched: Watched) -> None:
    with plain(watched.url) as channel:
        channel.exchange_delete("cim.conversations")
        channel.exchange_declare("cim.conversations", "topic", durable=True)
        channel.queue_delete("cim.ingress")
        channel.queue_declare("cim.ingress", durable=True)
        channel.queue_delete("cim.ingress.retry.1s")
        arguments = {one.name: one.arguments for one in watched.topology.queues}["cim.ingress.retry.1s"]
        channel.queue_declare("cim.ingress.retry.1s", durable=True, arguments=arguments | {"x-message-ttl": 5000})
    assert {one.name: one.problem for one in watched.compared() if one.problem} == {
        "cim.conversations": "is topic, must be direct",
        "cim.ingress": "is classic, must be quorum: its messages are on one node only",
        "cim.ingress.retry.1s": "x-message-ttl is 5000, must be 1000",
    }


@pytest.mark.parametrize("speak", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n["])
def test_a_management_api_that_is_silent_is_given_up_in_time(speak: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        api = Management(f"http://u:hunter2@127.0.0.1:{server.getsockname()[1]}", "/", timeout_seconds=0.5)

        async def ask() -> float:
            started = time.monotonic()
            asking = asyncio.create_task(api.policies())
            client, _ = await asyncio.to_thread(server.accept)
            with client:
                client.sendall(speak)
                with pytest.raises(ManagementUnavailable) as caught:
                    await asking
            assert "hunter2" not in str(caught.value)
            return time.monotonic() - started

        assert asyncio.run(ask()) < 5


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda url: url.replace("guest:guest", "guest:hunter2"), "refuses its user"),
        (lambda url: url.rpartition(":")[0].replace("guest:guest", "guest:hunter2") + ":1", "no answer"),
    ],
)
def test_why_the_management_api_says_nothing_is_told_without_the_password(
    broker: Broker, change: Callable[[str], str], text: str
) -> None:
    with pytest.raises(ManagementUnavailable, match=text) as caught:
        asyncio.run(Management(change(broker.management.url), "/").policies())
    assert "hunter2" not in str(caught.value)


def test_a_worker_warns_at_start_of_what_loses_messages_and_only_if_it_may_ask(watched: Watched) -> None:
    watched.policy({"overflow": "drop-head"}, "^cim.ingress$")
    reporter = RecordingReporter()
    asyncio.run(warn_of_hazards(load_settings(rabbitmq_url=watched.url), reporter))
    assert reporter.warnings == []
    settings = load_settings(rabbitmq_url=watched.url, rabbitmq_management_url=watched.management.url)
    asyncio.run(warn_of_hazards(settings, reporter))
    ((event, facts),) = reporter.warnings
    assert (event, facts["name"]) == ("topology_differs", "harm on queue cim.ingress")
    nobody = load_settings(rabbitmq_url=watched.url, rabbitmq_management_url="http://guest:hunter2@127.0.0.1:1")
    asyncio.run(warn_of_hazards(nobody, reporter))
    event, facts = reporter.warnings[-1]
    assert event == "management_unavailable"
    assert "hunter2" not in str(facts)
