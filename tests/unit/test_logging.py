"""Logs: one JSON object per line, with nothing in it that must not get out."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from worker.ops import background, repetition
from worker.ops.logging import configure_logging, mask_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = "amqp://someone:hunter2@broker.example.org:5672/vhost"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    for name in ("pika", "pymongo", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_has_event_level_time_in_utc_and_process_id(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")

    structlog.get_logger().info("batch", size=3)

    [line] = lines(capsys)
    assert (line["event"], line["level"], line["size"]) == ("batch", "info", 3)
    assert line["timestamp"].endswith("Z")
    assert line["pid"] > 0


def test_what_is_below_the_level_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "warning")

    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")

    assert [line["event"] for line in lines(capsys)] == ["loud"]


def test_libraries_speak_up_only_when_it_matters_and_pika_never(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "debug")

    logging.getLogger("pika.adapters").error("connection lost")
    logging.getLogger("pymongo.topology").info("heartbeat")
    logging.getLogger("pymongo.topology").warning("no primary at %s", URL)

    [line] = lines(capsys)
    assert line["event"] == "no primary at amqp://***@broker.example.org:5672/vhost"


def test_what_asyncio_repeats_is_said_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")

    for number in range(1000):
        logging.getLogger("asyncio").error("socket.accept() out of system resource\nsocket: %s", number)
    logging.getLogger("asyncio").error("something else")

    first, second = lines(capsys)
    assert first["event"].startswith("socket.accept() out of system resource")
    assert second["event"] == "something else"


@pytest.mark.parametrize(
    "key", ["body", "payload", "password", "rabbitmq_url", "mongodb_uri", "Authorization", "input"]
)
def test_telling_names_are_masked(key: str) -> None:
    assert mask_secrets(None, "info", {key: "hunter2"}) == {key: "***"}


@pytest.mark.parametrize("key", ["body_type", "body_bytes", "message_id", "conversation_id", "reason"])
def test_harmless_names_are_not_masked(key: str) -> None:
    assert mask_secrets(None, "info", {key: "text"}) == {key: "text"}


def test_credentials_are_cut_out_of_everything() -> None:
    values = {"event": f"to {URL}", "reasons": [URL], "nested": {"where": URL, "password": "x"}, "raw": b"hunter2"}

    masked = mask_secrets(None, "info", values)

    assert "hunter2" not in json.dumps(masked)
    assert masked["nested"]["password"] == "***"
    assert masked["raw"] == "<7 bytes>"


def test_a_traceback_is_there_without_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")

    try:
        int(URL)
    except ValueError:
        structlog.get_logger().exception("failed")

    [line] = lines(capsys)
    assert "ValueError" in line["exception"]
    assert "hunter2" not in line["exception"]


def test_a_console_line_leads_with_time_level_what_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("console", "info")
    log = structlog.get_logger()
    log.error("dependency_down", dependency="broker", address="h:5672", code="broker_unavailable", reason="cut off")
    log.info("work", seconds=10, received=3, stored=3)
    log.warning("topology_differs", name="q 1", difference="is classic", fix="delete it", empty=None)

    written = capsys.readouterr().err.splitlines()
    assert [re.sub(r"pid=\d+$", "pid=1", re.sub(r"^[\d:]{8}", "12:00:00", line)) for line in written] == [
        "12:00:00  error    dependency down             broker at h:5672: cut off  code=broker_unavailable pid=1",
        "12:00:00  info     work                        seconds=10 received=3 stored=3 pid=1",
        '12:00:00  warning  topology differs            is classic; delete it  name="q 1" pid=1',
    ]


def test_a_console_line_has_its_traceback_below_and_no_terminal_codes_of_strangers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("console", "info")
    try:
        int("x")
    except ValueError:
        structlog.get_logger().exception("failed", sender_id="evil\x1b[2J")
    first, *traceback = capsys.readouterr().err.splitlines()
    assert "failed" in first
    assert "\x1b" not in first
    assert traceback[-1].startswith("ValueError")


def test_of_lines_alike_a_hundred_are_written_and_the_next_one_later_says_how_many_were_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(repetition, "monotonic", lambda: now[0])
    configure_logging("json", "info")
    log = structlog.get_logger()
    for number in range(250):
        log.warning("dead_letter", code="malformed_json", message_id=f"m-{number}")
    log.warning("dead_letter", code="missing_anchor")
    now[0] += 10
    log.warning("dead_letter", code="malformed_json", message_id="late")

    written = lines(capsys)
    assert len(written) == 100 + 1 + 1
    assert [line.get("suppressed") for line in written[-2:]] == [None, 150]


def test_the_number_of_lost_lines_is_never_lost_itself(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    for _ in range(150):
        structlog.get_logger().warning("log_lines_dropped", count=1)
    assert len(lines(capsys)) == 150


def test_a_reader_that_stops_reading_costs_lines_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as reader:
        monkeypatch.setattr(sys, "stderr", stream)
        before = background.dropped_lines
        configure_logging("json", "info", in_background=True)
        started = time.monotonic()
        for number in range(8000):
            structlog.get_logger().info("line", reason=str(number))
        assert time.monotonic() - started < 20
        dropped = background.dropped_lines - before
        assert dropped > 1000

        arrived = reported = 0
        while arrived + reported < 8000:  # once there is a reader, every line arrives or is counted in a report
            line = json.loads(reader.readline())
            arrived += line["event"] == "line"
            reported += line.get("count", 0) if line["event"] == "log_lines_dropped" else 0
        assert (arrived, reported) == (8000 - dropped, dropped)
        logging.getLogger().handlers[0].flush()


def test_what_cannot_be_written_at_all_is_counted_and_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        before = background.dropped_lines
        configure_logging("json", "info", in_background=True)
        for _ in range(10):
            structlog.get_logger().info("line")
        logging.getLogger().handlers[0].flush()
        assert background.dropped_lines == before + 10
        with contextlib.suppress(OSError):
            stream.close()
