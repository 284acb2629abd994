"""The schema of lifecycle events and the worker never disagree, apart from what the schema says it cannot say."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.from_schema import VALUES, Schema, changed
from worker.cim import Rejected
from worker.codes import Code
from worker.conversations.lifecycle import ID_PATHS, LifecycleChange, parse_lifecycle
from worker.schemas.lifecycle import lifecycle_schema

SCHEMA = Schema(lifecycle_schema())
FILES = sorted((Path(__file__).parents[2] / "schemas" / "examples" / "lifecycle").glob("*.json"))
MANY = settings(max_examples=300, deadline=None)


def judge(event: Any) -> object:
    return parse_lifecycle(json.dumps(event, ensure_ascii=False).encode(), received_at=1_760_000_000_000)


def agree(event: Any) -> bool:
    """Tell whether schema and worker say the same; of an id the schema counts characters, the worker bytes."""
    verdict = judge(event)
    if isinstance(verdict, Rejected) and verdict.first.code is Code.ID_TOO_LONG:
        return not json.dumps(event, ensure_ascii=False).isascii() or not SCHEMA.accepts(event)
    return SCHEMA.accepts(event) is not isinstance(verdict, Rejected)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_example_is_valid_and_taken(file: Path) -> None:
    event = json.loads(file.read_bytes())
    assert SCHEMA.errors(event) == []
    assert isinstance(judge(event), LifecycleChange)


@pytest.mark.parametrize(
    "path", ["timestamp", "conversationId", "data/id", "data/state", "data/customer", "data", "name"]
)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_they_agree_on_every_odd_value(file: Path, path: str) -> None:
    *parents, last = path.split("/")
    events = [json.loads(file.read_bytes()) for _ in VALUES]
    for event, value in zip(events, VALUES, strict=True):
        place = event
        for part in parents:
            place = place[part]
        place[last] = value
    assert [(judge(one), SCHEMA.errors(one), one) for one in events if not agree(one)] == []


@pytest.mark.parametrize("path", [*ID_PATHS, ("data", "participants", 1, "participant", "id")])
def test_neither_takes_an_id_with_a_control_character(path: tuple[Any, ...]) -> None:
    event = json.loads((FILES[0].parent / "topic_state_change_event.json").read_bytes())
    *parents, last = path
    place = event
    for parent in parents:
        place = place[parent] if parent == 1 else place.setdefault(parent, {})
    place[last] = "u-1\n"
    assert isinstance(judge(event), Rejected)
    assert not SCHEMA.accepts(event)


@MANY
@given(st.integers(0, 2**64))
def test_the_worker_takes_what_the_schema_makes(seed: int) -> None:
    event = SCHEMA.make(Random(seed))
    assert agree(event), (judge(event), event)


@MANY
@given(st.sampled_from(FILES), st.integers(0, 2**64))
def test_what_one_of_them_refuses_the_other_refuses(file: Path, seed: int) -> None:
    random = Random(seed)
    event = json.loads(file.read_bytes()) if random.random() < 0.5 else SCHEMA.make(random)
    for _ in range(random.randint(1, 3)):
        event = changed(event, random)
    assert agree(event), (judge(event), SCHEMA.errors(event), event)
