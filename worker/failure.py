"""What went wrong, as one value: for headers, logs, metrics and letters, whoever noticed it.

Adapters translate what their drivers raise, by type, where it is raised (`rabbit/errors.py`, `mongo/errors.py`), and
raise an `AdapterError` that carries the `Failure`. What nobody translated is a bug: retried with a cap, then dead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

from worker.codes import Code, FailureClass, Problem, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

_FINGERPRINT_DIGITS: Final = 12


class Dependency(StrEnum):
    """A service the worker cannot do without."""

    STORE = "store"
    BROKER = "broker"


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, without a byte of payload and without credentials; may travel in headers and logs."""

    code: Code
    stage: Stage
    detail: str
    """One short sentence."""
    fingerprint: str
    """Groups failures of one cause: see `fingerprint`."""
    dependency: Dependency | None = None
    """The service at fault, when it is one."""
    pointer: str = ""
    """JSON pointer to the field at fault; empty for the whole document or when no field is."""
    problems: tuple[Problem, ...] = ()
    """Everything that is wrong with an invalid message."""

    @property
    def failure_class(self) -> FailureClass:
        """What it means for the message."""
        return self.code.spec.failure_class

    @classmethod
    def of(
        cls,
        code: Code,
        cause: str = "",
        *,
        number: int | None = None,
        dependency: Dependency | None = None,
        stage: Stage | None = None,
    ) -> Self:
        """Return the failure of *code*.

        Args:
            code: the catalogue's reason.
            cause: what happened, in a few words that are safe to repeat.
            number: the server's number for the error; tells causes apart.
            dependency: the service at fault.
            stage: where it was found; default: the code's own.
        """
        stage = stage or code.spec.stage
        where = "" if number is None else str(number)
        detail = f"{code.spec.meaning} ({cause})" if cause else code.spec.meaning
        return cls(code, stage, detail, fingerprint(code, stage, "", where), dependency)

    @classmethod
    def of_problems(cls, problems: tuple[Problem, ...]) -> Self:
        """Return the failure of an invalid message: its first problem names it, all of them travel along."""
        first = problems[0]
        stage = first.code.spec.stage
        print_ = fingerprint(first.code, stage, first.pointer)
        return cls(first.code, stage, first.expected, print_, None, first.pointer, problems)


class AdapterError(Exception):
    """Root of what the adapters raise. Carries the `Failure`; `classify` returns it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class StoreUnavailable(AdapterError):  # noqa: N818 - a state of the world, not an error of ours
    """The store is away, or the effect of a write is not known. Do the whole call again later: ids make it harmless."""


class OperatorFault(AdapterError):  # noqa: N818 - the design says fault
    """Credentials, permissions or configuration: no message is at fault and only an operator can help."""


class StoreRefused(AdapterError):  # noqa: N818 - a state of the world, not an error of ours
    """This one document can never be stored, or the server refused it for a reason nobody listed."""


def classify(exc: BaseException, stage: Stage | None = None) -> Failure:
    """Return what *exc* means. Never raises; what no adapter raised is a bug, told by its place in our code.

    *stage* is where it was caught, for bugs (the others know their stage).
    """
    return exc.failure if isinstance(exc, AdapterError) else _bug(exc, stage)


def store_silent() -> Failure:
    """Return the failure of an operation the store did not answer within our deadline."""
    return Failure.of(Code.STORE_UNAVAILABLE, "no answer within the deadline", dependency=Dependency.STORE)


def fingerprint(code: Code, stage: Stage, pointer: str = "", where: str = "") -> str:
    """Return 12 hex digits: the same for the same cause, in every process and every version.

    Args:
        code: the catalogue's reason.
        stage: where it was found.
        pointer: JSON pointer to the field at fault; array indexes do not count as a difference.
        where: what else tells causes apart: a server's error number, or for a bug exception type and function.
    """
    parts = "/".join("*" if part.isdecimal() else part for part in pointer.split("/"))
    text = f"{code.value}\0{stage.value}\0{parts}\0{where}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_FINGERPRINT_DIGITS]


def _bug(exc: BaseException, stage: Stage | None) -> Failure:
    code = Code.UNEXPECTED_ERROR
    where = f"{type(exc).__name__} in {_innermost_worker_function(exc.__traceback__)}"
    stage = stage or code.spec.stage
    return Failure(code, stage, f"{code.spec.meaning} ({where})", fingerprint(code, stage, "", where))


def _innermost_worker_function(traceback: TracebackType | None) -> str:
    """Name the last function of ours on the way down, without its line: lines move with every version."""
    ours = [frame for frame in _frames(traceback) if _module(frame).partition(".")[0] == "worker"]
    return f"{_module(ours[-1])}.{ours[-1].f_code.co_qualname}" if ours else "code that is not ours"


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _module(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""
