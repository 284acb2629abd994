"""OpenTelemetry traces: one span for each delivery, and one below it for each message or document made of it.

A batch has no span. It is an accident of timing: what people follow is a message, from its publisher through attempts
and a replay to its subscribers, and a span of the batch with links to two hundred traces would be in none of them. So
the span of a delivery begins when it was received, and its time in a batch is part of it.

The names are those of the semantic conventions for messaging (RabbitMQ) and databases, in this file only. They are
written out, for the conventions' own package keeps them under `_incubating` and moves them. Imported only with
`CIM_TRACING=true`.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker import __version__, contract
from worker.outcome import Outcome

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue

    from worker.pipeline.settlement import Settled
    from worker.ports import Clock, Delivery

SYSTEM: Final = "messaging.system"
OPERATION: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
ROUTING_KEY: Final = "messaging.rabbitmq.destination.routing_key"
MESSAGE_ID: Final = "messaging.message.id"
CORRELATION_ID: Final = "messaging.message.conversation_id"
BODY_SIZE: Final = "messaging.message.body.size"
ERROR: Final = "error.type"
DATABASE: Final = "db.system.name"
DATABASE_OPERATION: Final = "db.operation.name"
COLLECTION: Final = "db.collection.name"
OUTCOME: Final = "cim.outcome"
REASON: Final = "cim.reason"
EVENT_ID: Final = "cim.event.id"
CIM_MESSAGE_ID: Final = "cim.message.id"
CONVERSATION_ID: Final = "cim.conversation.id"
LETTER_ID: Final = "cim.letter.id"

_RABBITMQ: Final = "rabbitmq"
_ACTIVITIES: Final = "ConversationActivities"
_NOT_TAKEN: Final = "not_taken"
_SHUTDOWN_SECONDS: Final = 3.0
_CARRIED: Final = (contract.TRACEPARENT, contract.TRACESTATE)
_FAILED: Final = frozenset({Outcome.RETRY, Outcome.DEAD})


class Exporter:
    """Where spans go: as the standard variables say (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER` …)."""

    def __init__(self) -> None:
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: contract.APP_ID}))
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))

    @property
    def tracer(self) -> Tracer:
        """What makes spans."""
        return self._provider.get_tracer(contract.APP_ID, __version__)

    def session(self, clock: Clock) -> SpanTracing:
        """Return what makes the spans of one broker session."""
        return SpanTracing(self.tracer, clock)

    async def close(self) -> None:
        """Export what is left, for three seconds at most: the SDK waits longer for a collector that is away."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)  # no executor: its end is waited for
        closing.start()
        deadline = asyncio.get_running_loop().time() + _SHUTDOWN_SECONDS
        while closing.is_alive() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - a thread's end is no event
            await asyncio.sleep(0.02)


class SpanTracing:
    """Makes the spans of one broker session; what the session leaves unsettled has none. Never raises."""

    def __init__(self, tracer: Tracer, clock: Clock) -> None:
        self._tracer = tracer
        self._clock = clock
        self._propagator = TraceContextTextMapPropagator()
        self._open: dict[Delivery, tuple[Span, Span | None]] = {}
        """The delivery's span, and the one of what is being made of it."""

    def begin(self, delivery: Delivery) -> None:
        """Begin the span of *delivery*, in its publisher's trace if it names one."""
        properties = delivery.properties
        headers = properties.headers
        carrier = {name: value for name in _CARRIED if isinstance(value := headers.get(name), str)}
        attributes: dict[str, AttributeValue] = {
            SYSTEM: _RABBITMQ,
            OPERATION: "process",
            OPERATION_TYPE: "process",
            DESTINATION: _joined(delivery.exchange, delivery.routing_key, delivery.queue),
            ROUTING_KEY: delivery.routing_key,
            BODY_SIZE: len(delivery.body),
        }
        if properties.message_id is not None:
            attributes[MESSAGE_ID] = properties.message_id
        if properties.correlation_id is not None:
            attributes[CORRELATION_ID] = properties.correlation_id
        age_ns = int((self._clock.monotonic() - delivery.received_at) * 1e9)
        span = self._tracer.start_span(
            f"process {delivery.queue}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            start_time=self._clock.now_ms() * 1_000_000 - age_ns,
        )
        self._open[delivery] = (span, None)
        self._carry(delivery, span)

    def sends(self, delivery: Delivery, exchange: str, routing_key: str) -> None:
        """Begin the span of a message made of *delivery*, which carries it on."""
        attributes: dict[str, AttributeValue] = {
            SYSTEM: _RABBITMQ,
            OPERATION: "publish",
            OPERATION_TYPE: "send",
            DESTINATION: _joined(exchange, routing_key),
            ROUTING_KEY: routing_key,
        }
        span = self._below(delivery, f"publish {exchange or routing_key}", SpanKind.PRODUCER, attributes)
        if span is not None:
            self._carry(delivery, span)

    def stores(self, delivery: Delivery) -> None:
        """Begin the span of writing the activity of *delivery*."""
        attributes: dict[str, AttributeValue] = {
            DATABASE: "mongodb",
            DATABASE_OPERATION: "insert",
            COLLECTION: _ACTIVITIES,
        }
        self._below(delivery, f"insert {_ACTIVITIES}", SpanKind.CLIENT, attributes)

    def settled(self, settled: Settled) -> None:
        """End the spans of a delivery."""
        spans = self._open.pop(settled.delivery, None)
        if spans is None:
            return
        span, below = spans
        if below is not None:
            below.end()
        identity, failure = settled.identity, settled.failure
        span.set_attribute(OUTCOME, settled.outcome.value)
        known = {
            REASON: settled.reason,
            EVENT_ID: identity.event_id,
            CIM_MESSAGE_ID: identity.message_id,
            CONVERSATION_ID: identity.conversation_id,
            LETTER_ID: settled.letter_id,
            ERROR: None if failure is None else failure.code.value,
        }
        span.set_attributes({name: value for name, value in known.items() if value is not None})
        if failure is not None and settled.outcome in _FAILED:
            span.set_status(Status(StatusCode.ERROR, failure.code.value))
        span.end()

    def _below(
        self, delivery: Delivery, name: str, kind: SpanKind, attributes: dict[str, AttributeValue]
    ) -> Span | None:
        """Begin a span below the delivery's own; what was tried before it came to nothing."""
        spans = self._open.get(delivery)
        if spans is None:
            return None
        span, before = spans
        if before is not None:
            before.set_attribute(ERROR, _NOT_TAKEN)
            before.set_status(Status(StatusCode.ERROR, _NOT_TAKEN))
            before.end()
        below = self._tracer.start_span(name, context=set_span_in_context(span), kind=kind, attributes=attributes)
        self._open[delivery] = (span, below)
        return below

    def _carry(self, delivery: Delivery, span: Span) -> None:
        """Let everything that is made of *delivery* from now on say that it comes from *span*."""
        headers = delivery.properties.headers
        headers.pop(contract.TRACESTATE, None)
        self._propagator.inject(headers, context=set_span_in_context(span))


def _joined(*parts: str) -> str:
    """Return a destination as the conventions for RabbitMQ write it, without what is empty or said already."""
    return ":".join(dict.fromkeys(part for part in parts if part))
