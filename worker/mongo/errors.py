"""What the driver raises, by type and by the server's number, as failures of ours. pymongo's exceptions stop here.

Numbers are those of MongoDB's error_codes.yml.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

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
    store_silent,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

DRIVER_ERRORS: Final = (PyMongoError, BSONError)
DUPLICATE_KEYS: Final = (11000, 11001, 12582)
"""The second and third come from old servers and routers."""

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
    (InvalidDocument, _NOT_ENCODABLE),
    (InvalidStringData, _NOT_ENCODABLE),
)

_STORES_OWN: Final[dict[int, _Row]] = {
    # Unauthorized, AuthenticationFailed and their kin, options the server does not know, write concerns it cannot keep.
    **dict.fromkeys((11, 13, 18, 31, 33, 59, 72, 79, 100, 166, 323, 391, 8000), _NO_ACCESS),
    # Host and network, shutdown, failover, stale routing, time limits, too many requests, a full disk.
    **dict.fromkeys((6, 7, 24, 43, 46, 50, 63, 64, 84, 89, 91, 112, 134, 136, 175, 189, 202, 237, 262, 290), _AWAY),
    **dict.fromkeys((384, 462, 9001, 10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 14031, 46841), _AWAY),
}
"""Numbers that are never about a document, wherever they appear."""

_CONTENT: Final[dict[int, _Row]] = {
    **dict.fromkeys((10334, 10003, 17419, 17420), _TOO_LARGE),
    # Overflow (nested too deep), InvalidBSON, validation, an index key that is too long, a unique index.
    **dict.fromkeys((15, 22, 121, 17280, *DUPLICATE_KEYS), _REFUSED),
}
"""Numbers that are about what a document holds even when the whole command is refused with them."""

_DOCUMENTS_OWN: Final[dict[int, _Row]] = {
    **_CONTENT,
    # BadValue, TypeMismatch, field names and the _id, ImmutableField, index keys that cannot be made.
    **dict.fromkeys((2, 14, 52, 53, 55, 56, 57, 66, 171, 16572, 16755, 17262), _REFUSED),
}
"""Numbers that are the document's when they are said of one document; of a whole command they are the store's."""

_AWAY_LABELS: Final = ("RetryableWriteError", "SystemOverloadedError", "TransientTransactionError")
_ENCODE_ERRORS: Final = (OverflowError, UnicodeEncodeError, RecursionError, ValueError, TypeError)

# Phrases that are safe to repeat, out of texts that are not: what an operator wants to know first.
_HINTS: Final = (
    ("CERTIFICATE_VERIFY_FAILED", "TLS certificate not accepted"),
    ("[SSL", "no TLS"),
    ("Connection refused", "connection refused"),
    ("Name or service not known", "host name not known"),
    ("Temporary failure in name resolution", "host name not known"),
    ("DNS query name does not exist", "host name not known"),
    ("All nameservers failed", "host name not known"),
    ("timed out", "timed out"),
    ("connection closed", "connection closed"),
    ("No space left", "disk full"),
    ("disk is full", "disk full"),
    ("cannot use 'j' option", "it has no journal"),
)
_CODE_NAME: Final = re.compile("[A-Za-z]{1,60}")


class CommandRefused(StoreUnavailable):
    """The store refused a whole command with a number that no list knows: its fault, unless neighbours prove better."""

    def __init__(self, exc: OperationFailure) -> None:
        super().__init__(failure_of(exc))
        self.of_one = Failure.of(Code.UNEXPECTED_ERROR, f"command error {exc.code}", number=exc.code, stage=Stage.STORE)
        """The failure of one document, should its neighbours get through without it."""


def failure_of(exc: PyMongoError | BSONError, *, holds_documents: bool = True) -> Failure:
    """Return what an exception of the driver means.

    An error for a command is the store's, whatever its number, except for the few that are about content when the
    command *holds documents*. An error for one document is what its number says. What no table knows is a bug until
    proven otherwise.
    """
    number = exc.code if isinstance(exc, OperationFailure) else None
    row = _row(exc, number, _CONTENT if holds_documents else {})
    if row is None:
        return classify(exc, Stage.STORE)
    code, dependency = row
    name = "" if number is None else f" {number}"
    cause = f"{type(exc).__name__}{name}{_code_name(exc)}{_hint(str(exc))}"
    return Failure.of(code, cause, number=number, dependency=dependency, stage=Stage.STORE)


def is_listed(exc: OperationFailure) -> bool:
    """Tell whether a list knows the error of a command: it is surely the store's, or surely about content."""
    return _has_away_label(exc) or exc.code in _STORES_OWN or exc.code in _CONTENT or _by_type(exc) is not None


def index_refused(exc: OperationFailure) -> Failure | None:
    """Return why the store will not make an index, or None when it is away.

    That it has one by the same name or with other options (85, 86), or that we may not (13), is no outage: no message
    waits for an index.
    """
    if _has_away_label(exc) or _by_type(exc) is _AWAY or _STORES_OWN.get(exc.code or 0) is _AWAY:
        return None
    cause = f"createIndexes {exc.code}{_code_name(exc)}"
    return Failure.of(Code.STORE_ACCESS_REFUSED, cause, number=exc.code, dependency=Dependency.STORE)


def failure_at_encode(exc: Exception) -> Failure:
    """Return what an exception means that was raised while one document was encoded alone.

    There, and only there, built-in errors such as OverflowError say that the document can never be stored.
    """
    if isinstance(exc, (*_ENCODE_ERRORS, BSONError)):
        return Failure.of(Code.NOT_ENCODABLE, type(exc).__name__)
    return classify(exc, Stage.STORE)


def failure_of_write_error(number: int, text: str = "") -> Failure:
    """Return what an error for one document means, by the server's number for it; *text* is looked through for hints.

    A number nobody listed is UNEXPECTED_ERROR: the document may be at fault, or the store may be sick.
    """
    code, dependency = _of_document(number) or (Code.UNEXPECTED_ERROR, None)
    cause = f"write error {number}{_hint(text)}"
    return Failure.of(code, cause, number=number, dependency=dependency, stage=Stage.STORE)


def all_alike(failure: Failure) -> Failure:
    """Return the store's failure that is proven by several documents failing, of which *failure* is the first."""
    cause = failure.detail.removeprefix(failure.code.spec.meaning).strip(" ()")
    store = Failure.of(Code.STORE_UNAVAILABLE, f"it takes no document: {cause}", dependency=Dependency.STORE)
    return replace(store, fingerprint=failure.fingerprint)


def not_on_a_majority() -> Failure:
    """Return the failure of a write that was applied but not confirmed by a majority."""
    return Failure.of(Code.STORE_WRITE_UNCERTAIN, "write concern error", dependency=Dependency.STORE)


def document_too_large() -> Failure:
    """Return the failure of a document that is larger than any MongoDB server accepts (16 MiB)."""
    return Failure.of(Code.DOCUMENT_TOO_LARGE, "checked before sending")


def lacks_what_was_asked(error: AdapterError) -> bool:
    """Tell whether it may help to ask in a simpler way: not of a server that does not answer in time."""
    return error.failure != store_silent()


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


def _row(exc: Exception, number: int | None, content: Mapping[int, _Row]) -> _Row | None:
    if _has_away_label(exc):
        return _AWAY
    if isinstance(exc, WriteError):
        return None if number is None else _of_document(number)
    by_type = _by_type(exc)
    if by_type is not None or not isinstance(exc, OperationFailure):
        return by_type
    return _STORES_OWN.get(number or 0) or content.get(number or 0, _AWAY)


def _of_document(number: int) -> _Row | None:
    return _STORES_OWN.get(number) or _DOCUMENTS_OWN.get(number)


def _by_type(exc: Exception) -> _Row | None:
    if type(exc.__cause__).__module__.startswith(
        "dns."
    ):  # a name server's answer, which the driver calls configuration
        return _AWAY
    return next((row for kind, row in _BY_TYPE if isinstance(exc, kind)), None)


def _has_away_label(exc: Exception) -> bool:
    return isinstance(exc, PyMongoError) and any(exc.has_error_label(label) for label in _AWAY_LABELS)


def _code_name(exc: Exception) -> str:
    """Return the server's own word for the error, which is one of a fixed list and safe to repeat."""
    details = exc.details if isinstance(exc, OperationFailure) else None
    name = (details or {}).get("codeName")
    return f" {name}" if isinstance(name, str) and _CODE_NAME.fullmatch(name) else ""


def _hint(text: str) -> str:
    return next((f": {hint}" for phrase, hint in _HINTS if phrase in text), "")
