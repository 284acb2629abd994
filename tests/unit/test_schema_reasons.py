"""The catalogue of reasons: every code has an example that leads to it, and says what to do."""

from __future__ import annotations

import re

import pytest
from bson.datetime_ms import DatetimeMS

from tests.support.examples import RECEIVED_AT, accepted, spoilt
from worker.cim import Rejected, parse
from worker.codes import Code, FailureClass, WarningCode
from worker.failure import Failure
from worker.mongo.activities import activity_document
from worker.mongo.bulk import encode_alone
from worker.pipeline.translate import translate
from worker.schemas.pages import reasons_page
from worker.schemas.reasons import EXAMPLES, Body, catalogue

OF_MESSAGES = {code: example for code, example in EXAMPLES.items() if isinstance(example, Body)}


def test_every_code_has_an_example() -> None:
    assert list(EXAMPLES) == list(Code)


def test_every_code_that_bytes_lead_to_has_a_message_as_example() -> None:
    of_bytes = {code for code in Code if code.spec.failure_class is FailureClass.INVALID}
    assert set(OF_MESSAGES) == of_bytes - {Code.SENDER_NOT_ALLOWED}


@pytest.mark.parametrize("code", OF_MESSAGES)
def test_the_example_of_a_code_is_rejected_with_it_first(code: Code) -> None:
    example = OF_MESSAGES[code]
    verdict = parse(example.body, received_at=RECEIVED_AT, content_encoding=example.content_encoding)
    assert isinstance(verdict, Rejected)
    assert verdict.first.code is code


@pytest.mark.parametrize(
    "code",
    [
        code
        for code in OF_MESSAGES
        if code.value.startswith(("missing", "wrong", "invalid_")) and code.spec.stage.value == "validate"
    ],
)
def test_the_example_has_no_other_problem(code: Code) -> None:
    verdict = parse(OF_MESSAGES[code].body, received_at=RECEIVED_AT)
    assert isinstance(verdict, Rejected)
    assert [one.code for one in verdict.problems] == [code]


def test_a_key_with_a_nul_character_is_not_encodable() -> None:
    activity = translate(accepted(spoilt("body/a\x00b", 1)), None, now=RECEIVED_AT)
    refused = encode_alone(activity_document(activity, DatetimeMS(RECEIVED_AT)))
    assert isinstance(refused, Failure)
    assert refused.code is Code.NOT_ENCODABLE


@pytest.mark.parametrize("code", list(Code))
def test_every_code_says_what_to_do(code: Code) -> None:
    assert re.fullmatch(r"[A-Z`].*[^.]\.", code.spec.fix)
    assert code.spec.fix != code.spec.meaning


def test_the_page_shows_all_of_it() -> None:
    page = reasons_page()
    for one in catalogue()["reasons"]:
        assert f'<section id="{one["code"]}">' in page
    assert [one for one in WarningCode if f'id="{one.value}"' not in page] == []
