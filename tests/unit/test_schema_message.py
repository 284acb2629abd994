"""The schema of a message and the worker never disagree, apart from what the schema says it cannot say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import judge, spoilt
from tests.support.from_schema import VALUES, Schema, changed
from worker.cim import CimMessage
from worker.cim.ids import MAX_ID_BYTES
from worker.cim.rules import BLANK, NOT_BLANK
from worker.codes import Code
from worker.schemas.message import message_schema

SCHEMA = Schema(message_schema())
ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "schemas" / "examples").glob("*.json"), *(ROOT / "tests" / "cases").glob("*.json")])
MANY = settings(max_examples=400, deadline=None)
OF_THE_BYTES = {Code.INTEGER_OUT_OF_RANGE, Code.NESTING_TOO_DEEP, Code.NUMBER_NOT_FINITE, Code.INVALID_UNICODE}


def agree(message: Any) -> bool:
    """Tell whether schema and worker say the same, or the schema cannot know better."""
    verdict = judge(message)
    assert type(judge(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode())) is type(verdict)
    if isinstance(verdict, CimMessage):
        return SCHEMA.accepts(message)
    return not SCHEMA.accepts(message) or all(
        one.code in OF_THE_BYTES or (one.code is Code.ID_TOO_LONG and not _characters_suffice(message, one.pointer))
        for one in verdict.problems
    )


def _characters_suffice(message: Any, pointer: str) -> bool:
    for part in pointer.split("/")[1:]:
        message = message[part]
    return len(message) > MAX_ID_BYTES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_schema_and_worker_agree_on_every_example_and_case(file: Path) -> None:
    message = json.loads(file.read_bytes())
    assert SCHEMA.accepts(message) is isinstance(judge(message), CimMessage)


def test_blank_means_the_same_to_patterns_and_to_python() -> None:
    characters = [chr(number) for number in range(0x3001)]
    assert [one for one in characters if bool(re.search(BLANK, one)) is bool(one.strip())] == []
    assert [one for one in characters if bool(re.search(NOT_BLANK, one)) is not bool(one.strip())] == []


@pytest.mark.parametrize(
    "path",
    [
        *("id", "header/sender/id", "header/sender/type", "header/timestamp", "header/conversationId", "header/roomId"),
        *("header/channelSessionId", "header/customer/_id", "header/channelData/requestPriority", "body/type"),
    ],
)
def test_they_agree_on_every_odd_value_where_a_rule_is_more_than_a_type(path: str) -> None:
    messages = [spoilt(path, value) for value in VALUES]
    assert [(judge(one), SCHEMA.errors(one)) for one in messages if not agree(one)] == []
    assert len({SCHEMA.accepts(one) for one in messages}) == 2, "some are taken, and some are not"


@MANY
@given(st.integers(0, 2**64))
def test_the_worker_takes_what_the_schema_makes(seed: int) -> None:
    message = SCHEMA.make(Random(seed))
    verdict = judge(message)
    assert isinstance(verdict, CimMessage) or agree(message), (verdict, message)


@MANY
@given(st.integers(0, 2**64))
def test_what_one_of_them_refuses_the_other_refuses(seed: int) -> None:
    random = Random(seed)
    message = SCHEMA.make(random)
    for _ in range(random.randint(1, 3)):
        message = changed(message, random)
    assert agree(message), (judge(message), SCHEMA.errors(message), message)


@MANY
@given(st.sampled_from(FILES), st.integers(0, 2**64))
def test_they_agree_on_spoilt_examples(file: Path, seed: int) -> None:
    random = Random(seed)
    message = json.loads(file.read_bytes())
    for _ in range(random.randint(1, 3)):
        message = changed(message, random)
    assert agree(message), (judge(message), SCHEMA.errors(message), message)
