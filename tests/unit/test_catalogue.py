"""Log events and metrics: each has its row in the catalogue, and each row is used."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.documentation import ROOT
from worker.codes import Code
from worker.ops.event_catalogue import EVENTS
from worker.ops.metric_catalogue import METRICS
from worker.ops.metrics import Metrics
from worker.ops.pool_metrics import PoolMetrics
from worker.ops.process import process_report
from worker.outcome import Outcome
from worker.ports import Confirmation
from worker.process.worker import Worker
from worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "warn": "warning",
    "error": "error",
    "exception": "error",
    "critical": "error",
}
PASSED_ON = "what"
"""The argument with which `LoggingReporter` passes an event on: the caller's literal is what counts."""


@dataclass(frozen=True)
class Logged:
    """One place in the source that logs."""

    place: str
    level: str
    """Empty where it is chosen at run time."""
    event: str | None
    """None where it is not a literal."""
    fields: frozenset[str]


def test_every_log_event_has_a_row_and_every_row_is_logged() -> None:
    logged = {one.event for one in logged_events()}

    assert [one.place for one in logged_events() if one.event is None] == [], "the event's name has to be a literal"
    assert logged - {row.name for row in EVENTS} == set(), "add a row to worker/ops/event_catalogue.py"
    assert {row.name for row in EVENTS} - logged == set(), "remove the row from worker/ops/event_catalogue.py"


def test_a_log_event_has_the_fields_of_its_row() -> None:
    rows = {row.name: set(row.fields) for row in EVENTS}

    extra = {one.place: one.fields - rows[one.event] for one in logged_events() if one.event in rows}
    assert {place: fields for place, fields in extra.items() if fields} == {}


def test_a_log_event_has_the_level_of_its_row() -> None:
    rows = {row.name: row.level for row in EVENTS}
    conditional = {"retry", "dead_letter"}  # one call for both: `log` is chosen beside the name

    wrong = [
        one.place for one in logged_events() if one.event not in conditional and one.level != rows[one.event or ""]
    ]
    assert wrong == []


def test_names_of_the_catalogue_are_unique() -> None:
    assert len({row.name for row in EVENTS}) == len(EVENTS)
    assert len({row.name for row in METRICS}) == len(METRICS)


async def test_every_metric_has_a_row_and_every_row_is_exposed() -> None:
    pool = PoolMetrics()
    pool.restarts["died"] = 1
    window = Worker(load_settings())._readiness.window()
    pool.reported(0, metrics_with_something_in_each().report() | window | process_report("0"))
    exposed = {}
    for family in pool.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        own = [set(sample.labels) - {"le"} for sample in family.samples]
        assert own, f"{name} has no sample"
        exposed[name] = (family.type, frozenset().union(*own))

    assert exposed == {row.name: (row.kind, frozenset(row.labels)) for row in METRICS}


def test_a_process_reports_what_has_a_row() -> None:
    reported = metrics_with_something_in_each().report() | process_report("0")
    assert set(reported) - {row.name for row in METRICS} == set(), "add a row to worker/ops/metric_catalogue.py"


@pytest.mark.parametrize("row", EVENTS, ids=lambda row: str(row.name))
def test_a_row_says_when_in_one_sentence(row: object) -> None:
    when = getattr(row, "when", "")
    assert when.endswith(".")
    assert when[0].isupper() or when[0] == "`"


def metrics_with_something_in_each() -> Metrics:
    metrics = Metrics()
    metrics.count_outcome(Outcome.DEAD, 0.1, Code.MALFORMED_JSON)
    metrics.receipts["sent"] += 1
    metrics.count_outcome(Outcome.STORED, 0.1, None, body_type="PLAIN", age_seconds=1)
    metrics.count_confirms("events", [Confirmation.RETURNED], 0.1)
    metrics.batch_sizes["store"].observe(1)
    metrics.stage_seconds["store"].observe(0.1)
    metrics.observed = {
        "cim_queue_messages": [[["cim.ingress", "ready"], 1]],
        "cim_queue_consumers": [[["cim.ingress"], 1]],
        "cim_queue_head_age_seconds": [[["cim.ingress"], 1]],
        "cim_open_letters": [[["malformed_json"], 1]],
        "cim_oldest_open_letter_seconds": [[[], 1]],
    }
    metrics.contradictions["customer"] += 1
    metrics.dependency_up["store"] = True
    metrics.outages["store", "store_unavailable"] += 1
    return metrics


def logged_events() -> Iterator[Logged]:
    """Yield every call that logs, from the source: `x.info("event", …)`, `reporter.warn(…)` and the like."""
    for file in sorted((ROOT / "worker").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            level = logging_level(node.func) if isinstance(node, ast.Call) else None
            if isinstance(node, ast.Call) and node.args and level is not None:
                place = f"{file.relative_to(ROOT)}:{node.lineno}"
                fields = frozenset(keyword.arg for keyword in node.keywords if keyword.arg)
                for event in event_names(node.args[0]):
                    yield Logged(place, level, event, fields - {"exc_info"})


def logging_level(function: ast.expr) -> str | None:
    if isinstance(function, ast.Attribute):
        return LEVELS.get(function.attr)
    return "" if isinstance(function, ast.Name) and function.id == "log" else None


def event_names(argument: ast.expr) -> list[str | None]:
    if isinstance(argument, ast.Name) and argument.id == PASSED_ON:
        return []
    if isinstance(argument, ast.IfExp):
        return [*event_names(argument.body), *event_names(argument.orelse)]
    return [argument.value] if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else [None]
