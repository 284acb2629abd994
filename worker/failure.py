"""Failure classes in one place: what an exception means, whoever raised it.

A table maps exception types, by name, to a code of the catalogue; the code says the class. This module knows the names
`pymongo.errors.AutoReconnect` or `worker.rabbit.errors.ConfirmTimeout` but imports neither, so it stays pure and
the table can be read from top to bottom. What is not listed is UNKNOWN: loud, retried with a cap, then dead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from worker.codes import Code, FailureClass, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

_DUPLICATE_KEY: Final = 11000
_FINGERPRINT_DIGITS: Final = 12


class Dependency(StrEnum):
    """A service the worker cannot do without."""

    STORE = "store"
    BROKER = "broker"


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, told without a byte of payload and without credentials; may travel in headers and logs."""

    failure_class: FailureClass
    code: Code
    stage: Stage
    detail: str
    """One short sentence, with the type of the exception and the server's number for the error."""
    fingerprint: str
    """Groups failures of one cause: see `fingerprint`."""
    dependency: Dependency | None = None
    """The service at fault, when it is one."""


class AdapterError(Exception):
    """Root of what the store's adapter raises. Carries the `Failure`; `classify` gives it back."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class StoreUnavailable(AdapterError):  # noqa: N818 - a state of the world, not an error of ours
    """The store is away, or the effect of a write is not known. Do the whole call again later: ids make it harmless."""


class OperatorFault(AdapterError):  # noqa: N818 - the design says fault
    """Credentials, permissions or configuration: no message is at fault and only an operator can help."""


class StoreRefused(AdapterError):  # noqa: N818 - a state of the world, not an error of ours
    """This one document can never be stored, or the server refused it for a reason nobody listed."""


_ENCODE_ERRORS: Final = (OverflowError, UnicodeEncodeError, RecursionError, ValueError, TypeError)

_BY_TYPE: Final[dict[str, tuple[Code, Dependency | None]]] = {
    # The store is away, or cut us off in the middle: the effect is unknown.
    "pymongo.errors.ConnectionFailure": (Code.STORE_UNAVAILABLE, Dependency.STORE),
    "pymongo.errors.AutoReconnect": (Code.STORE_UNAVAILABLE, Dependency.STORE),
    "pymongo.errors.NotPrimaryError": (Code.STORE_UNAVAILABLE, Dependency.STORE),
    "pymongo.errors.NetworkTimeout": (Code.STORE_UNAVAILABLE, Dependency.STORE),
    "pymongo.errors.ServerSelectionTimeoutError": (Code.STORE_UNAVAILABLE, Dependency.STORE),
    "pymongo.errors.WaitQueueTimeoutError": (Code.STORE_UNAVAILABLE, Dependency.STORE),
    "pymongo.errors.ExecutionTimeout": (Code.STORE_UNAVAILABLE, Dependency.STORE),
    "pymongo.errors.CursorNotFound": (Code.STORE_UNAVAILABLE, Dependency.STORE),
    "pymongo.errors.ProtocolError": (Code.STORE_UNAVAILABLE, Dependency.STORE),
    # Written, but not on a majority yet.
    "pymongo.errors.WTimeoutError": (Code.STORE_WRITE_UNCERTAIN, Dependency.STORE),
    "pymongo.errors.WriteConcernError": (Code.STORE_WRITE_UNCERTAIN, Dependency.STORE),
    # The driver cannot use what it was configured with.
    "pymongo.errors.ConfigurationError": (Code.STORE_ACCESS_REFUSED, Dependency.STORE),
    "pymongo.errors.InvalidURI": (Code.STORE_ACCESS_REFUSED, Dependency.STORE),
    "pymongo.errors.InvalidName": (Code.STORE_ACCESS_REFUSED, Dependency.STORE),
    # The document.
    "pymongo.errors.DocumentTooLarge": (Code.DOCUMENT_TOO_LARGE, None),
    "pymongo.errors.DuplicateKeyError": (Code.STORE_REJECTED, None),
    "pymongo.errors.WriteError": (Code.STORE_REJECTED, None),
    "bson.errors.InvalidDocument": (Code.NOT_ENCODABLE, None),
    "bson.errors.InvalidStringData": (Code.NOT_ENCODABLE, None),
    # The broker.
    "worker.rabbit.errors.BrokerUnreachable": (Code.BROKER_UNAVAILABLE, Dependency.BROKER),
    "worker.rabbit.errors.ConnectionLost": (Code.BROKER_UNAVAILABLE, Dependency.BROKER),
    "worker.rabbit.errors.ChannelClosed": (Code.BROKER_UNAVAILABLE, Dependency.BROKER),
    "worker.rabbit.errors.ConfirmTimeout": (Code.BROKER_UNAVAILABLE, Dependency.BROKER),
    "worker.rabbit.errors.PublishNacked": (Code.PUBLISH_REJECTED, None),
    "worker.rabbit.errors.AccessRefused": (Code.BROKER_ACCESS_REFUSED, Dependency.BROKER),
    "worker.rabbit.errors.TopologyMismatch": (Code.TOPOLOGY_MISMATCH, Dependency.BROKER),
    "worker.rabbit.errors.Unroutable": (Code.TOPOLOGY_MISMATCH, Dependency.BROKER),
    "pika.exceptions.AMQPConnectionError": (Code.BROKER_UNAVAILABLE, Dependency.BROKER),
    "pika.exceptions.ConnectionBlockedTimeout": (Code.BROKER_BLOCKED, Dependency.BROKER),
    "pika.exceptions.AuthenticationError": (Code.BROKER_ACCESS_REFUSED, Dependency.BROKER),
    "pika.exceptions.ProbableAuthenticationError": (Code.BROKER_ACCESS_REFUSED, Dependency.BROKER),
    "pika.exceptions.ProbableAccessDeniedError": (Code.BROKER_ACCESS_REFUSED, Dependency.BROKER),
    "pika.exceptions.ChannelClosed": (Code.BROKER_UNAVAILABLE, Dependency.BROKER),
    "pika.exceptions.ChannelWrongStateError": (Code.BROKER_UNAVAILABLE, Dependency.BROKER),
    "pika.exceptions.ConsumerCancelled": (Code.BROKER_UNAVAILABLE, Dependency.BROKER),
    "pika.exceptions.NackError": (Code.PUBLISH_REJECTED, None),
    "pika.exceptions.UnroutableError": (Code.TOPOLOGY_MISMATCH, Dependency.BROKER),
}

_ACCESS_CODES: Final = (11, 13, 18, 31, 33, 59, 72, 79, 100, 166, 323, 8000)
_AWAY_CODES: Final = (
    *(6, 7, 24, 43, 46, 50, 63, 64, 84, 89, 91, 112, 134, 136, 175, 189, 202, 237, 262, 290, 384, 462),
    *(9001, 10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 14031, 46841),
)

# PyMongo raises OperationFailure for any error the server names by number; numbers are MongoDB's error_codes.yml.
_BY_SERVER_CODE: Final[dict[int, tuple[Code, Dependency | None]]] = {
    **dict.fromkeys(_ACCESS_CODES, (Code.STORE_ACCESS_REFUSED, Dependency.STORE)),
    **dict.fromkeys(_AWAY_CODES, (Code.STORE_UNAVAILABLE, Dependency.STORE)),
    **dict.fromkeys((10334, 10003), (Code.DOCUMENT_TOO_LARGE, None)),
    # BadValue, TypeMismatch, Overflow (nested too deep), InvalidBSON, field names, validation, index keys.
    **dict.fromkeys(
        (2, 14, 15, 22, 52, 53, 55, 57, 66, 121, 146, 171, 17280, _DUPLICATE_KEY), (Code.STORE_REJECTED, None)
    ),
}

# 403, 404, 406: not allowed, missing, other arguments. 530: no such virtual host.
_BY_REPLY_CODE: Final[dict[int, tuple[Code, Dependency | None]]] = {
    403: (Code.BROKER_ACCESS_REFUSED, Dependency.BROKER),
    530: (Code.BROKER_ACCESS_REFUSED, Dependency.BROKER),
    404: (Code.TOPOLOGY_MISMATCH, Dependency.BROKER),
    406: (Code.TOPOLOGY_MISMATCH, Dependency.BROKER),
}

_AWAY_LABELS: Final = ("RetryableWriteError", "SystemOverloadedError", "TransientTransactionError")


# Phrases that are safe to repeat, out of texts that are not: what an operator wants to know first.
_HINTS: Final = (
    ("CERTIFICATE_VERIFY_FAILED", "TLS certificate not accepted"),
    ("[SSL", "no TLS"),
    ("Connection refused", "connection refused"),
    ("Name or service not known", "host name not known"),
    ("Temporary failure in name resolution", "host name not known"),
    ("timed out", "timed out"),
    ("connection closed", "connection closed"),
)


def classify(exc: BaseException, stage: Stage | None = None) -> Failure:
    """Return what *exc* means. Never raises; what no row knows is UNKNOWN with the place in our code as its cause.

    Args:
        exc: anything caught at the edge of the pipeline or in an adapter.
        stage: where it was caught, for UNKNOWN failures (the others know their stage).
    """
    if isinstance(exc, AdapterError):
        return exc.failure
    number = server_code(exc)
    row = _row(exc, number)
    if row is None:
        return _unknown(exc, stage)
    cause = f"{type(exc).__name__}{'' if number is None else f' {number}'}{_hint(exc)}"
    return _failure(*row, cause, number)


def classify_at_encode(exc: Exception) -> Failure:
    """Return what an exception means that was raised while one document was encoded alone.

    There, and only there, built-in errors such as OverflowError say that the document can never be stored.
    """
    if isinstance(exc, _ENCODE_ERRORS):
        return _failure(Code.NOT_ENCODABLE, None, type(exc).__name__, None)
    return classify(exc, Stage.STORE)


def classify_write_error(number: int) -> Failure:
    """Return what one entry of a bulk write's errors means, by the server's number for it.

    A number nobody listed is UNKNOWN: the document may be at fault, or the server may be tired.
    """
    row = _BY_SERVER_CODE.get(number)
    if row is not None:
        return _failure(*row, f"write error {number}", number)
    return _failure(Code.UNEXPECTED_ERROR, None, f"write error {number}", number, Stage.STORE)


def store_error(failure: Failure) -> AdapterError:
    """Return the exception by which the store's adapter tells *failure* to its caller."""
    if failure.failure_class is FailureClass.OPERATOR:
        return OperatorFault(failure)
    if failure.failure_class is FailureClass.OUTAGE:
        return StoreUnavailable(failure)
    return StoreRefused(failure)


def document_too_large() -> Failure:
    """Return the failure of a document that is larger than any MongoDB server accepts (16 MiB)."""
    return _failure(Code.DOCUMENT_TOO_LARGE, None, "checked before sending", None)


def store_silent() -> Failure:
    """Return the failure of an operation the store did not answer within our deadline."""
    return _failure(Code.STORE_UNAVAILABLE, Dependency.STORE, "no answer within the deadline", None)


def store_too_busy() -> Failure:
    """Return the failure of a change that lost every race against other writers: try again later."""
    return _failure(Code.STORE_UNAVAILABLE, Dependency.STORE, "others keep changing the same document", None)


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


def server_code(exc: BaseException) -> int | None:
    """Return the number the server gave the error (MongoDB code or AMQP reply code), or None."""
    for name in ("code", "reply_code"):
        number = getattr(exc, name, None)
        if isinstance(number, int):
            return number
    return None


def _hint(exc: BaseException) -> str:
    text = str(exc)
    return next((f": {hint}" for phrase, hint in _HINTS if phrase in text), "")


def _row(exc: BaseException, number: int | None) -> tuple[Code, Dependency | None] | None:
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(exc).__mro__]
    if "pymongo.errors.PyMongoError" in names:
        return _store_row(exc, names, number)
    if number is not None and any(name.endswith(("ChannelClosed", "ConnectionClosed")) for name in names):
        return _BY_REPLY_CODE.get(number) or _first_listed(names)
    return _first_listed(names)


def _store_row(exc: BaseException, names: list[str], number: int | None) -> tuple[Code, Dependency | None] | None:
    has_label = getattr(exc, "has_error_label", None)
    if has_label is not None and any(has_label(label) for label in _AWAY_LABELS):
        return Code.STORE_UNAVAILABLE, Dependency.STORE
    by_number = None if number is None or "pymongo.errors.WriteConcernError" in names else _BY_SERVER_CODE.get(number)
    return by_number or _first_listed(names)


def _first_listed(names: list[str]) -> tuple[Code, Dependency | None] | None:
    return next((_BY_TYPE[name] for name in names if name in _BY_TYPE), None)


def _failure(
    code: Code, dependency: Dependency | None, cause: str, number: int | None, stage: Stage | None = None
) -> Failure:
    stage = stage or code.spec.stage
    where = "" if number is None else str(number)
    detail = f"{code.spec.meaning} ({cause})"
    return Failure(code.spec.failure_class, code, stage, detail, fingerprint(code, stage, "", where), dependency)


def _unknown(exc: BaseException, stage: Stage | None) -> Failure:
    code = Code.UNEXPECTED_ERROR
    where = f"{type(exc).__name__} in {_innermost_worker_function(exc.__traceback__)}"
    stage = stage or code.spec.stage
    detail = f"{code.spec.meaning} ({where})"
    return Failure(code.spec.failure_class, code, stage, detail, fingerprint(code, stage, "", where))


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
