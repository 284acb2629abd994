"""What the driver raises, by type and by the server's number, as failures of ours. pymongo's exceptions stop here.

Numbers are those of MongoDB's error_codes.yml.
"""

from __future__ import annotations

from typing import Final

from bson.errors import BSONError, InvalidDocument, InvalidStringData
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    CursorNotFound,
    DocumentTooLarge,
    ExecutionTimeout,
    InvalidName,
    NotPrimaryError,
    OperationFailure,
    ProtocolError,
    PyMongoError,
    WriteConcernError,
    WriteError,
)

from worker.codes import Code, FailureClass, Stage
from worker.failure import (
    AdapterError,
    Dependency,
    Failure,
    OperatorFault,
    StoreRefused,
    StoreUnavailable,
    classify,
)

DRIVER_ERRORS: Final = (PyMongoError, BSONError)
DUPLICATE_KEY: Final = 11000

_Row = tuple[Code, Dependency | None]
_AWAY: Final[_Row] = (Code.STORE_UNAVAILABLE, Dependency.STORE)
_NO_ACCESS: Final[_Row] = (Code.STORE_ACCESS_REFUSED, Dependency.STORE)
_UNCERTAIN: Final[_Row] = (Code.STORE_WRITE_UNCERTAIN, Dependency.STORE)
_REFUSED: Final[_Row] = (Code.STORE_REJECTED, None)
_TOO_LARGE: Final[_Row] = (Code.DOCUMENT_TOO_LARGE, None)
_NOT_ENCODABLE: Final[_Row] = (Code.NOT_ENCODABLE, None)

# The first row whose type fits counts: narrower types stand above wider ones.
_BY_TYPE: Final[tuple[tuple[type[Exception], _Row], ...]] = (
    (WriteConcernError, _UNCERTAIN),  # written, but not on a majority yet
    (NotPrimaryError, _AWAY),
    (ConnectionFailure, _AWAY),
    (ExecutionTimeout, _AWAY),
    (CursorNotFound, _AWAY),
    (ProtocolError, _AWAY),
    (ConfigurationError, _NO_ACCESS),  # the driver cannot use what it was configured with
    (InvalidName, _NO_ACCESS),
    (DocumentTooLarge, _TOO_LARGE),
    (WriteError, _REFUSED),
    (InvalidDocument, _NOT_ENCODABLE),
    (InvalidStringData, _NOT_ENCODABLE),
)

_BY_NUMBER: Final[dict[int, _Row]] = {
    # Unauthorized, AuthenticationFailed and their kin, options the server does not know, write concerns it cannot keep.
    **dict.fromkeys((11, 13, 18, 31, 33, 59, 72, 79, 100, 166, 323, 8000), _NO_ACCESS),
    # Host and network, shutdown, failover, stale routing, time limits, too many requests.
    **dict.fromkeys((6, 7, 24, 43, 46, 50, 63, 64, 84, 89, 91, 112, 134, 136, 175, 189, 202, 237, 262, 290), _AWAY),
    **dict.fromkeys((384, 462, 9001, 10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 14031, 46841), _AWAY),
    **dict.fromkeys((10334, 10003), _TOO_LARGE),
    # BadValue, TypeMismatch, Overflow (nested too deep), InvalidBSON, field names, validation, index keys.
    **dict.fromkeys((2, 14, 15, 22, 52, 53, 55, 57, 66, 121, 146, 171, 17280, DUPLICATE_KEY), _REFUSED),
}
_AWAY_LABELS: Final = ("RetryableWriteError", "SystemOverloadedError", "TransientTransactionError")
_ENCODE_ERRORS: Final = (OverflowError, UnicodeEncodeError, RecursionError, ValueError, TypeError)

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


def failure_of(exc: PyMongoError | BSONError) -> Failure:
    """Return what an exception of the driver means. What no row knows is a bug until proven otherwise."""
    number = exc.code if isinstance(exc, OperationFailure) else None
    row = _row(exc, number)
    if row is None:
        return classify(exc, Stage.STORE)
    code, dependency = row
    cause = f"{type(exc).__name__}{'' if number is None else f' {number}'}{_hint(exc)}"
    return Failure.of(code, cause, number=number, dependency=dependency)


def failure_at_encode(exc: Exception) -> Failure:
    """Return what an exception means that was raised while one document was encoded alone.

    There, and only there, built-in errors such as OverflowError say that the document can never be stored.
    """
    if isinstance(exc, (*_ENCODE_ERRORS, BSONError)):
        return Failure.of(Code.NOT_ENCODABLE, type(exc).__name__)
    return classify(exc, Stage.STORE)


def failure_of_write_error(number: int) -> Failure:
    """Return what one entry of a bulk write's errors means, by the server's number for it.

    A number nobody listed is UNEXPECTED_ERROR: the document may be at fault, or the server may be tired.
    """
    code, dependency = _BY_NUMBER.get(number, (Code.UNEXPECTED_ERROR, None))
    return Failure.of(code, f"write error {number}", number=number, dependency=dependency, stage=Stage.STORE)


def not_on_a_majority() -> Failure:
    """Return the failure of a write that was applied but not confirmed by a majority."""
    return Failure.of(Code.STORE_WRITE_UNCERTAIN, "write concern error", dependency=Dependency.STORE)


def document_too_large() -> Failure:
    """Return the failure of a document that is larger than any MongoDB server accepts (16 MiB)."""
    return Failure.of(Code.DOCUMENT_TOO_LARGE, "checked before sending")


def store_too_busy() -> Failure:
    """Return the failure of a change that lost every race against other writers: try again later."""
    return Failure.of(Code.STORE_UNAVAILABLE, "others keep changing the same document", dependency=Dependency.STORE)


def store_error(failure: Failure) -> AdapterError:
    """Return the exception by which this package tells *failure* to its caller."""
    if failure.failure_class is FailureClass.OPERATOR:
        return OperatorFault(failure)
    if failure.failure_class is FailureClass.OUTAGE:
        return StoreUnavailable(failure)
    return StoreRefused(failure)


def _row(exc: Exception, number: int | None) -> _Row | None:
    if isinstance(exc, PyMongoError) and any(exc.has_error_label(label) for label in _AWAY_LABELS):
        return _AWAY
    by_type = next((row for kind, row in _BY_TYPE if isinstance(exc, kind)), None)
    if number is None or by_type is _UNCERTAIN:
        return by_type
    return _BY_NUMBER.get(number) or by_type


def _hint(exc: Exception) -> str:
    text = str(exc)
    return next((f": {hint}" for phrase, hint in _HINTS if phrase in text), "")
