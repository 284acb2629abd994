"""How a replay ended, as the exit code of its command."""

from __future__ import annotations

from worker.cli.dead_letters.replaying import exit_code
from worker.cli.exit_codes import ExitCode
from worker.codes import Code
from worker.failure import Dependency, Failure, store_silent


def test_who_is_away_is_told_by_the_kind_of_failure_whatever_its_text_says() -> None:
    of_store = Failure.of(Code.STORE_UNAVAILABLE, "no broker of this name", dependency=Dependency.STORE)
    of_broker = Failure.of(Code.BROKER_UNAVAILABLE, "connection reset", dependency=Dependency.BROKER)
    assert exit_code("interrupted", of_store) is ExitCode.STORE_UNREACHABLE
    assert exit_code("interrupted", store_silent()) is ExitCode.STORE_UNREACHABLE
    assert exit_code("interrupted", of_broker) is ExitCode.BROKER_UNREACHABLE
    assert exit_code("interrupted", None) is ExitCode.BROKER_UNREACHABLE


def test_a_replay_that_stopped_itself_fails_and_one_that_somebody_stopped_does_not() -> None:
    assert exit_code("stopped", None) is ExitCode.REJECTED
    assert exit_code("cancelled", None) is ExitCode.OK
