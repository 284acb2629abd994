"""What one worker process makes of broker sessions that end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.deliveries import FakeClock, RecordingReporter
from worker.flow.pause import PauseState
from worker.flow.reconnecting import Reconnecting
from worker.process.app import App
from worker.process.broker_session import BrokerSession
from worker.process.reports import ProcessReport
from worker.process.worker import Worker
from worker.rabbit.errors import AccessRefused, BrokerError, ConnectionLost
from worker.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

LOST = ConnectionLost("the connection was cut")


async def test_pauses_grow_with_every_attempt_and_are_short_again_after_a_session_that_worked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, clock = Worker(load_settings()), FakeClock()
    monkeypatch.setattr(worker._app, "clock", clock)
    reconnecting = Reconnecting(random=lambda: 1.0)

    def pause_after(error: BrokerError, consumed_ms: int | None = None) -> float:
        session = BrokerSession(
            worker._app, 0, worker._connector, worker._checking, worker._readiness, worker._stopping
        )
        if consumed_ms is not None:
            session._consuming_since = clock.monotonic()
            clock.ms += consumed_ms
        return reconnecting.pause_after(error.failure, session.lasted_seconds)

    assert [pause_after(LOST) for _ in range(5)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3])
    assert pause_after(LOST, 1000) == 3, "it consumed, but not for long enough"
    assert pause_after(LOST, 6000) == pytest.approx(0.2)
    assert pause_after(LOST) == pytest.approx(0.4), "that session counts once"
    assert pause_after(AccessRefused("no")) == 10, "only an operator can help"
    await worker._app.store.close()


async def test_readiness_says_since_when_and_why_a_dependency_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, clock = Worker(load_settings()), FakeClock()
    monkeypatch.setattr(worker._app, "clock", clock)
    monkeypatch.setattr(worker._readiness.broker, "_clock", clock)
    before = {check.name: check.reason or "" for check in worker.report().checks}
    assert before["broker"].startswith("connecting to the broker at localhost:5672 since 2")
    assert before["store"].startswith("store unavailable since 2")
    clock.ms = 1_764_000_000_000
    worker._readiness.broker.began(LOST.failure, str(LOST))
    clock.ms += 90_000
    after = {check.name: check.reason for check in worker.report().checks}
    assert after["broker"] == "broker unavailable since 2025-11-24T16:00:00Z: the connection was cut"
    await worker._app.store.close()


async def test_a_report_carries_the_pause_to_the_process_that_comes_next_and_nothing_while_it_is_unknown() -> None:
    worker, paused = Worker(load_settings()), PauseState(is_paused=True, by="alice", reason="maintenance", at=1)
    assert worker.report().pause is None
    worker._app.pause.set(paused)
    assert ProcessReport.from_line(worker.report().to_line()).pause == paused
    await worker._app.store.close()


async def test_a_store_that_fails_to_be_closed_is_a_line_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(load_settings())
    monkeypatch.setattr(worker._app, "reporter", reported := RecordingReporter())
    store = worker._app.store
    really_close = store.close

    async def close() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "close", close)
    await worker._close_store()
    await really_close()
    assert [what for what, _ in reported.warnings] == ["store_not_closed"]


async def test_a_new_address_of_the_store_that_cannot_be_used_moves_nothing_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "uri"
    file.write_text("mongodb://localhost/")
    monkeypatch.delenv("CIM_MONGODB_URI", raising=False)
    monkeypatch.setenv("CIM_MONGODB_URI_FILE", str(file))
    app = App(load_settings())
    monkeypatch.setattr(app, "reporter", reported := RecordingReporter())

    assert not app.is_store_moved()
    file.write_text("mongodb://localhost/?tls=maybe")
    assert [app.is_store_moved() for _ in range(3)] == [False] * 3
    assert [(what, "tls" in str(facts), "maybe" in str(facts)) for what, facts in reported.warnings] == [
        ("secret_unreadable", True, False)
    ]
    file.write_text("mongodb://other/")
    assert app.is_store_moved()
    await app.store.close()
