"""A Jaeger of this machine, which is an OpenTelemetry collector with a store: built once with Go, asked by its API."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.deployment.tools import Tools
from tests.documentation import ROOT
from tests.services.processes import KeptProcess, free_ports
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PACKAGE: Final = "github.com/jaegertracing/jaeger/cmd/jaeger"
_MODULE: Final = "github.com/jaegertracing/jaeger@v1.76.0"
_STOP_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Span:
    """What Jaeger knows of one span."""

    id: str
    parent: str
    """Empty for one without."""
    name: str
    service: str
    tags: dict[str, Any]


@dataclass(frozen=True)
class Jaeger:
    """A running Jaeger."""

    otlp_port: int
    api_port: int

    @property
    def endpoint(self) -> str:
        """Where OTLP over HTTP is taken."""
        return f"http://127.0.0.1:{self.otlp_port}"

    def answers(self) -> bool:
        """Tell whether it can be asked."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api_port}/api/services", timeout=1):
                return True
        except OSError:
            return False

    def trace(self, trace_id: str) -> dict[str, Span]:
        """Return the spans of one trace by their ids; none when it is unknown."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api_port}/api/traces/{trace_id}", timeout=5) as answer:
                (found,) = json.load(answer)["data"]
        except urllib.error.HTTPError:
            return {}
        services = {name: process["serviceName"] for name, process in found["processes"].items()}
        return {span["spanID"]: _span(span, services) for span in found["spans"]}


def _span(found: dict[str, Any], services: dict[str, str]) -> Span:
    parents = [one["spanID"] for one in found["references"] if one["refType"] == "CHILD_OF"]
    tags = {tag["key"]: tag["value"] for tag in found["tags"]}
    return Span(
        found["spanID"], parents[0] if parents else "", found["operationName"], services[found["processID"]], tags
    )


@contextmanager
def running(folder: Path) -> Iterator[Jaeger]:
    """Run Jaeger with its store in memory; its files go to *folder*."""
    program = Tools(ROOT / ".cache" / "deploy-tools").from_go("jaeger", _PACKAGE, _MODULE)
    otlp, query, query_grpc = free_ports(3)
    configuration = folder / "jaeger.json"  # JSON is YAML
    configuration.write_text(json.dumps(_configuration(otlp, query, query_grpc)))
    process = KeptProcess(
        [str(program), "--config", f"file:{configuration}"], environment={}, log=folder / "jaeger.log"
    )
    jaeger = Jaeger(otlp, query)
    try:
        eventually(jaeger.answers, f"Jaeger answers; see {folder}/jaeger.log")
        yield jaeger
    finally:
        process.terminate(_STOP_SECONDS)


def _configuration(otlp: int, query: int, query_grpc: int) -> dict[str, Any]:
    local = "127.0.0.1:{}".format
    return {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"metrics": {"level": "none"}},
        },
        "extensions": {
            "jaeger_query": {
                "storage": {"traces": "mem"},
                "http": {"endpoint": local(query)},
                "grpc": {"endpoint": local(query_grpc)},
            },
            "jaeger_storage": {"backends": {"mem": {"memory": {"max_traces": 10_000}}}},
        },
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": local(otlp)}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "mem"}},
    }
