"""The generated activities are what they say they are."""

from __future__ import annotations

import re
from collections import Counter

from tests.documentation import ROOT
from worker.cim import Rejected, parse
from worker.cli.demo.activities import Mix, Place, Sample, generate
from worker.cli.demo.run import _CLOSED, _LIVE
from worker.codes import Code

LIVE = (Place("live-1", "session-1", "customer-1"), Place("live-2", "session-2", "customer-2"))
CLOSED = (Place("closed", "session-3", "customer-3"),)


def some(seed: int = 1, count: int = 2000, mix: Mix | None = None) -> list[Sample]:
    return list(generate(seed, count, live=LIVE, closed=CLOSED, mix=mix))


def test_the_same_seed_makes_the_same_messages() -> None:
    assert some(seed=7) == some(seed=7)
    assert some(seed=7) != some(seed=8)


def test_the_readme_shows_the_account_of_the_demo_as_it_is_run_by_default() -> None:
    sent = Counter(sample.outcome for sample in generate(1, 3000, live=_LIVE, closed=_CLOSED))
    row = re.compile(r"^│ (published|stored|duplicate|dead) +│ (\d+) +│ \2 ", re.MULTILINE)
    shown = row.findall((ROOT / "README.md").read_text())
    assert {outcome: int(number) for outcome, number in shown} == sent


def test_there_are_as_many_as_asked_for_and_some_of_every_kind() -> None:
    samples = some()

    assert len(samples) == 2000
    assert {sample.outcome for sample in samples} == {"published", "stored", "duplicate", "dead"}
    assert {"recording link", "survey", "IVR summary", "scheduled activity", "custom type", "corrected"} <= {
        sample.kind for sample in samples
    }


def test_the_invalid_ones_are_rejected_for_the_reason_they_are_meant_to_be_and_no_other_is() -> None:
    for sample in some():
        verdict = parse(sample.body, received_at=0)
        code = verdict.first.code if isinstance(verdict, Rejected) else None
        assert code == sample.code, sample.kind


def test_every_reason_is_one_of_the_catalogue() -> None:
    codes = {sample.code for sample in some() if sample.code}

    assert len(codes) > 10
    assert codes <= {code.value for code in Code}


def test_each_message_is_repeated_or_corrected_at_most_once() -> None:
    sent = Counter((s.sender_id, s.message_id) for s in some() if s.outcome != "dead")

    assert set(sent.values()) == {1, 2}


def test_only_what_has_weight_comes() -> None:
    samples = some(mix=Mix(1, 0, 0, 0, 0, 0, 0, 0))

    assert {sample.outcome for sample in samples} == {"published"}
    assert {sample.conversation_id for sample in samples} == {"live-1", "live-2"}
