"""`make traces-check`: the real command exports to a real Jaeger, which shows one message's way as one trace."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wire_proxy as wire
from tests.support.command import cim_worker
from tests.support.eventually import eventually
from tests.support.worker_pool import World
from tests.tracing import jaeger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.tracing.jaeger import Jaeger, Span

PUBLISHER = "b7ad6b7169203331"
LIVE, TROUBLED = "0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319d"
NOBODY_KNOWS = 54_321
"""A number of an error that is in no list: after another document was stored, it is the message's own."""


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    with jaeger.running(tmp_path_factory.mktemp("jaeger")) as running:
        yield running


def message(message_id: str, **header: Any) -> bytes:
    sender = {"id": "app-1", "type": "APP"}
    return json.dumps({"id": message_id, "header": {"sender": sender, **header}, "body": {"type": "PLAIN"}}).encode()


def traced(trace: str) -> dict[str, Any]:
    return {"headers": {"traceparent": f"00-{trace}-{PUBLISHER}-01"}}


def way_to(span: Span, spans: Mapping[str, Span]) -> list[str]:
    """Return the names of the spans from the publisher's to *span*."""
    names = [span.name]
    while span.parent in spans:
        span = spans[span.parent]
        names.append(span.name)
    assert span.parent == PUBLISHER, "the first of them goes on from the publisher's span"
    return names[::-1]


def test_a_message_is_one_trace_from_its_publisher_through_retry_and_letter_to_the_store(
    collector: Jaeger, vhost_url: str, proxy: wire.WireProxy, database: str, tmp_path: Path
) -> None:
    world = World(vhost_url, proxy.uri, database, tmp_path)
    world.apply_topology()
    tracing = {
        "CIM_TRACING": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_SERVICE_NAME": "activities",
    }
    letters = {"CIM_RECORD_DEAD_LETTERS": "true", "CIM_RECORD_INTERVAL_MS": "200", "CIM_MAX_ATTEMPTS": "2"}
    failing = wire.write_error(NOBODY_KNOWS, lambda document: document.get("messageId") == "troubled")
    with world.pool(**tracing, **letters) as pool:
        eventually(lambda: pool.ready()[0], "ready")
        queue = world.open("c-1")
        world.publish(message("live", conversationId="c-1"), **traced(LIVE))
        proxy.on("insert", collection="ConversationActivities", answer=failing)
        world.publish(message("troubled", customer={"_id": "u-1"}), **traced(TROUBLED))

        others = (message(f"other-{number}", customer={"_id": "u-1"}) for number in itertools.count())

        def died() -> list[dict[str, Any]]:
            world.publish(next(others))  # another one that is stored shows whose fault it is
            return world.collection("dead_letters")

        (letter,) = eventually(died, "a letter", 60)
        proxy.heal()
        replayed = cim_worker(
            *("dead-letters", "replay", letter["_id"], "--reason", "the store is well", "--yes"),
            CIM_RABBITMQ_URL=world.amqp_url,
            CIM_MONGODB_URI=world.mongodb_uri,
            CIM_MONGODB_DATABASE=world.database,
        )
        assert replayed.returncode == 0, replayed.stderr
        eventually(lambda: world.stored("troubled"), "stored by its replay")
        pool.signal()
        assert pool.wait() == 0

    live = collector.trace(LIVE)
    published = next(one for one in live.values() if one.name == "publish cim.conversations")
    assert way_to(published, live) == ["process cim.ingress", "publish cim.conversations"]
    (event,) = world.received(queue)
    assert event[1].headers["traceparent"] == f"00-{LIVE}-{published.id}-01", "subscribers go on from there"
    assert {one.service for one in live.values()} == {"activities"}

    spans = collector.trace(TROUBLED)
    (stored,) = (one for one in spans.values() if one.tags.get("cim.outcome") == "stored")
    written = next(one for one in spans.values() if one.parent == stored.id)
    way = way_to(written, spans)
    waits = [name for name in way if name.endswith("cim.ingress.waiting")]
    assert waits[:2] == ["publish cim.ingress.waiting", "process cim.ingress.waiting"]
    assert [name for name in way if name not in waits] == [  # how often it waits depends on what is stored meanwhile
        "process cim.ingress",
        "publish cim.ingress.retry.1s",
        "process cim.ingress",
        "publish cim.dead-letters",
        "process cim.ingress",
        "insert ConversationActivities",
    ]
    outcomes = [one.tags["cim.outcome"] for one in spans.values() if "cim.outcome" in one.tags]
    assert [one for one in sorted(outcomes) if one != "waiting"] == ["dead", "retry", "stored"]
    assert {one.tags["messaging.system"] for one in spans.values() if one.name.startswith("process")} == {"rabbitmq"}
