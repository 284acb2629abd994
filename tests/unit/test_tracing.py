"""One trace from the publisher through every attempt to the event, the document, the letter and its replay."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tests.support.deliveries import NOW, FakeDelivery, delivery
from tests.support.pipeline_harness import PipelineHarness
from tests.unit.test_pipeline import LIVE, message, record
from tests.unit.test_settlement import body_of
from worker import contract
from worker.ops import tracing as names
from worker.ops.tracing import SpanTracing
from worker.ports import Outgoing, Properties
from worker.settings import ConfigurationError, load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

TRACE, PUBLISHER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PUBLISHER}-01"


class Harness:
    def __init__(self) -> None:
        provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        tracer = provider.get_tracer("test")
        self.pipeline = PipelineHarness(new_tracing=lambda clock: SpanTracing(tracer, clock))
        self.pipeline.registry.records = {LIVE: record(LIVE, "ACTIVE")}

    async def spans(self, *batch: FakeDelivery) -> dict[str, ReadableSpan]:
        """Process *batch* and return the spans that it ended, by name."""
        self._exporter.clear()
        await self.pipeline.process(*batch)
        return {span.name: span for span in self._exporter.get_finished_spans()}


def traced(body: bytes, traceparent: str = TRACEPARENT, **headers: Any) -> FakeDelivery:
    return delivery(body, {contract.TRACEPARENT: traceparent, contract.TRACESTATE: "vendor=1", **headers})


def again(copy: Outgoing) -> FakeDelivery:
    return FakeDelivery(copy.body, Properties(headers=dict(copy.headers or {})))


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE, "all of it is one trace"
    return f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


async def test_a_live_message_goes_on_from_its_publisher_to_its_subscribers() -> None:
    harness = Harness()
    one = traced(message(1, conversationId=LIVE))
    one.received_at -= 2
    spans = await harness.spans(one)
    process, publish = spans["process cim.ingress"], spans["publish cim.conversations"]
    assert (process.kind, parent_of(process)) == (SpanKind.CONSUMER, PUBLISHER)
    assert (publish.kind, parent_of(publish)) == (SpanKind.PRODUCER, id_of(process))
    assert process.start_time == (NOW - 2000) * 1_000_000, "from its receipt"
    (event,) = harness.pipeline.at(LIVE)
    assert (event.headers or {})[contract.TRACEPARENT] == f"00-{TRACE}-{id_of(publish)}-01"
    assert (event.headers or {})[contract.TRACESTATE] == "vendor=1"
    said = attributes(process)
    assert said[names.SYSTEM] == "rabbitmq"
    assert said[names.OPERATION_TYPE] == "process"
    assert said[names.DESTINATION] == "cim.ingress:some.key"
    assert (said[names.OUTCOME], said[names.CIM_MESSAGE_ID]) == ("published", "m-1")
    assert attributes(publish)[names.DESTINATION] == f"cim.conversations:{LIVE}"


async def test_an_event_that_nobody_takes_shows_both_tries() -> None:
    harness = Harness()
    harness.pipeline.publisher.unbound.add(LIVE)
    spans = await harness.spans(traced(message(1, conversationId=LIVE)))
    assert attributes(spans["publish cim.conversations"])[names.ERROR] == "not_taken"
    insert = spans["insert ConversationActivities"]
    assert (insert.kind, attributes(insert)[names.DATABASE]) == (SpanKind.CLIENT, "mongodb")
    assert parent_of(insert) == id_of(spans["process cim.ingress"])
    assert attributes(spans["process cim.ingress"])[names.REASON] == "nobody_listens"


async def test_every_attempt_goes_on_from_the_one_before_to_the_letter_and_its_replay() -> None:
    harness = Harness()
    harness.pipeline.store.bug = RuntimeError("for now")
    first = await harness.spans(traced(body_of("1")))
    assert not first["process cim.ingress"].status.is_ok
    second = await harness.spans(again(harness.pipeline.at("cim.ingress.retry.1s", "")[0]))
    assert parent_of(second["process cim.ingress"]) == id_of(first["publish cim.ingress.retry.1s"])
    third = await harness.spans(again(harness.pipeline.at("cim.ingress.retry.10s", "")[0]))
    dead = third["process cim.ingress"]
    assert (attributes(dead)[names.OUTCOME], attributes(dead)[names.ERROR]) == ("dead", "unexpected_error")
    (letter,) = harness.pipeline.letters
    harness.pipeline.store.bug = None
    replay = await harness.spans(traced(body_of("1"), str((letter.headers or {})[contract.TRACEPARENT])))
    assert parent_of(replay["process cim.ingress"]) == id_of(third["publish cim.dead-letters"])
    assert attributes(replay["process cim.ingress"])[names.OUTCOME] == "stored"


@pytest.mark.parametrize("traceparent", ["nonsense", "", "00-0-0-01", "ff" * 200])
async def test_a_message_without_a_readable_trace_begins_one(traceparent: str) -> None:
    harness = Harness()
    spans = await harness.spans(traced(message(1, conversationId=LIVE), traceparent))
    assert spans["process cim.ingress"].parent is None
    (event,) = harness.pipeline.at(LIVE)
    assert str((event.headers or {})[contract.TRACEPARENT]).startswith("00-")
    assert contract.TRACESTATE not in (event.headers or {})


def test_without_tracing_nothing_of_it_is_imported() -> None:
    code = "import sys, worker.process.worker; sys.exit(any(one.startswith('opentelemetry') for one in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tracing_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.settings.find_spec", lambda name: None if name == "opentelemetry" else object())
    with pytest.raises(ConfigurationError, match=r"CIM_TRACING.*pip install '\.\[otel\]' in the clone"):
        load_settings(tracing=True)


def test_a_collector_that_is_away_costs_spans_and_no_time() -> None:
    """In a process of its own: a thread of the exporter goes on trying beyond the end of the test."""
    code = """
import asyncio
from worker.ops import tracing
exporter = tracing.Exporter()
exporter.tracer.start_span("one").end()
asyncio.run(exporter.close())
"""
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=15).returncode == 0
