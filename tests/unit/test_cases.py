"""What real clients of the platform send, in `tests/cases`: taken as it is, or rejected by the contract's own rule."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.examples import RECEIVED_AT, accepted, problems
from tests.support.identity import event_id_of
from worker.pipeline.translate import translate

FOLDER = Path(__file__).parents[1] / "cases"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))
SENDER, ANCHOR = ("missing_sender", "/header/sender"), ("missing_anchor", "/header")
REJECTED = {
    "11_publish_cim_event_2022_sender_is_participant": [ANCHOR],
    "12_call_alerting_2026": [ANCHOR],
    "23_recording_uploader_no_sender": [SENDER],
    "25_freeswitch_call_leg_ended": [ANCHOR],
    "28_dialer_call_progress": [SENDER, ANCHOR],
}
"""Those that name no place or no sender, with all that is wrong with them."""
TIMES = {"16_agent_outbound_empty_timestamp": RECEIVED_AT, "19_voice_bot_transcript_string_millis": 1_764_000_002_345}
"""What becomes of the unusual timestamps."""


def body(name: str) -> bytes:
    return (FOLDER / f"{name}.json").read_bytes()


def test_every_rejected_case_is_there() -> None:
    assert set(REJECTED) | set(TIMES) <= set(NAMES)


@pytest.mark.parametrize("name", sorted(REJECTED))
def test_what_names_no_place_or_no_sender_is_rejected_for_that_and_nothing_else(name: str) -> None:
    assert problems(body(name)) == REJECTED[name]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REJECTED])
def test_everything_else_comes_out_as_it_was_sent(name: str) -> None:
    sent = json.loads(body(name))
    message = accepted(body(name))
    event = json.loads(translate(message, None, now=RECEIVED_AT).event_bytes())
    assert event["id"] == event_id_of(body(name))
    assert event["data"] == normalised(sent, message.id, message.timestamp)
    assert event["eventEmitter"] == sent["header"]["sender"]
    assert json.dumps(event["data"]["body"]) == json.dumps(sent["body"]), "the order of keys or a number changed"


def normalised(sent: dict[str, Any], message_id: str, timestamp: int) -> dict[str, Any]:
    """Return a message with what the documentation says is normalised, and nothing else."""
    message = copy.deepcopy(sent)
    if not (message.get("id") or "").strip():
        message["id"] = message_id
    header = message["header"]
    header["timestamp"] = timestamp
    channel_data = header["channelData"] = header.get("channelData") or {}
    attributes = channel_data["additionalAttributes"] = channel_data.get("additionalAttributes") or []
    for attribute in attributes:
        value = attribute.get("value")
        if not isinstance(value, str):
            attribute["value"] = "" if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return message


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REJECTED])
def test_the_time_is_what_the_sender_meant(name: str) -> None:
    given = json.loads(body(name))["header"].get("timestamp")
    if name in TIMES:
        expected = TIMES[name]
    elif given is None:
        expected = RECEIVED_AT
    else:
        expected = given * 1000 if given < 10**11 else given
    assert accepted(body(name)).timestamp == expected
