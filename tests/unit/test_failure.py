"""Every exception that matters has a row, everything else is unknown, and no text carries what it must not."""

from __future__ import annotations

import re
from typing import Any

import dns.exception
import pymongo.errors
import pytest
from bson.errors import InvalidDocument, InvalidStringData

from worker.codes import Code, FailureClass, Stage
from worker.dead_letters.letter import letter_id
from worker.failure import (
    Dependency,
    Failure,
    OperatorFault,
    StoreRefused,
    StoreUnavailable,
    classify,
    fingerprint,
    store_silent,
)
from worker.mongo.errors import (
    DRIVER_ERRORS,
    document_too_large,
    failure_at_encode,
    failure_of,
    failure_of_write_error,
    store_error,
    store_too_busy,
)
from worker.rabbit import errors as rabbit

STORE, BROKER = Dependency.STORE, Dependency.BROKER


def refused(number: int, labels: tuple[str, ...] = ()) -> pymongo.errors.OperationFailure:
    return pymongo.errors.OperationFailure("text of the server", number, {"errorLabels": list(labels)})


def encode_error(value: str) -> UnicodeEncodeError:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return error
    raise AssertionError("it encodes")


def name_unknown() -> pymongo.errors.ConfigurationError:
    """Return what the driver raises for `mongodb+srv://` when the name servers do not know the name."""
    error = pymongo.errors.ConfigurationError("The DNS query name does not exist: _mongodb._tcp.h.")
    error.__cause__ = dns.exception.DNSException()  # type: ignore[no-untyped-call]
    return error


ROWS: list[tuple[BaseException, Code, Dependency | None]] = [
    (pymongo.errors.AutoReconnect("gone"), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.ConnectionFailure("gone"), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.NotPrimaryError("stepped down"), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.NetworkTimeout("slow"), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.ServerSelectionTimeoutError("nobody"), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.WaitQueueTimeoutError("queue"), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.ExecutionTimeout("slow", 50), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.CursorNotFound("gone", 43), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.ProtocolError("garbage"), Code.STORE_UNAVAILABLE, STORE),
    (refused(10107), Code.STORE_UNAVAILABLE, STORE),
    (refused(91), Code.STORE_UNAVAILABLE, STORE),
    (refused(11600), Code.STORE_UNAVAILABLE, STORE),
    (refused(14031), Code.STORE_UNAVAILABLE, STORE),
    (refused(462), Code.STORE_UNAVAILABLE, STORE),
    (refused(99999, ("RetryableWriteError",)), Code.STORE_UNAVAILABLE, STORE),
    (refused(99999, ("SystemOverloadedError",)), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.WTimeoutError("waited", 64), Code.STORE_WRITE_UNCERTAIN, STORE),
    (pymongo.errors.WriteConcernError("not enough", 100), Code.STORE_WRITE_UNCERTAIN, STORE),
    (refused(13), Code.STORE_ACCESS_REFUSED, STORE),
    (refused(18), Code.STORE_ACCESS_REFUSED, STORE),
    (refused(8000), Code.STORE_ACCESS_REFUSED, STORE),
    (pymongo.errors.ConfigurationError("bad"), Code.STORE_ACCESS_REFUSED, STORE),
    (name_unknown(), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.InvalidURI("bad"), Code.STORE_ACCESS_REFUSED, STORE),
    (pymongo.errors.InvalidName("bad"), Code.STORE_ACCESS_REFUSED, STORE),
    (pymongo.errors.DocumentTooLarge("big"), Code.DOCUMENT_TOO_LARGE, None),
    (refused(10334), Code.DOCUMENT_TOO_LARGE, None),
    (pymongo.errors.DuplicateKeyError("taken", 11000), Code.STORE_REJECTED, None),
    (pymongo.errors.WriteError("no", 121), Code.STORE_REJECTED, None),
    (pymongo.errors.WriteError("no", 2), Code.STORE_REJECTED, None),
    (pymongo.errors.WriteError("no", 10107), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.WriteError("no", 77777), Code.UNEXPECTED_ERROR, None),
    (refused(121), Code.STORE_REJECTED, None),
    (InvalidDocument("key"), Code.NOT_ENCODABLE, None),
    (InvalidStringData("text"), Code.NOT_ENCODABLE, None),
    (rabbit.BrokerUnreachable("refused"), Code.BROKER_UNAVAILABLE, BROKER),
    (rabbit.ConnectionLost("gone"), Code.BROKER_UNAVAILABLE, BROKER),
    (rabbit.ConfirmTimeout("silent"), Code.BROKER_UNAVAILABLE, BROKER),
    (rabbit.ChannelClosed(504, "CHANNEL_ERROR"), Code.BROKER_UNAVAILABLE, BROKER),
    (rabbit.ChannelClosed(403, "ACCESS_REFUSED"), Code.BROKER_ACCESS_REFUSED, BROKER),
    (rabbit.ChannelClosed(404, "NOT_FOUND"), Code.TOPOLOGY_MISMATCH, BROKER),
    (rabbit.ChannelClosed(406, "PRECONDITION_FAILED"), Code.TOPOLOGY_MISMATCH, BROKER),
    (rabbit.AccessRefused("no"), Code.BROKER_ACCESS_REFUSED, BROKER),
    (rabbit.TopologyMismatch("other arguments"), Code.TOPOLOGY_MISMATCH, BROKER),
    (refused(2), Code.STORE_UNAVAILABLE, STORE),
    (refused(99999), Code.STORE_UNAVAILABLE, STORE),
    (pymongo.errors.InvalidOperation("closed"), Code.UNEXPECTED_ERROR, None),
    (ValueError("bug"), Code.UNEXPECTED_ERROR, None),
    (KeyError("bug"), Code.UNEXPECTED_ERROR, None),
    (RecursionError(), Code.UNEXPECTED_ERROR, None),
]


def told(error: BaseException) -> Failure:
    """Return the failure as the adapter that meets the error makes it."""
    return failure_of(error) if isinstance(error, DRIVER_ERRORS) else classify(error)


@pytest.mark.parametrize(("error", "code", "dependency"), ROWS, ids=lambda value: getattr(value, "value", repr(value)))
def test_an_exception_is_what_its_row_says(error: BaseException, code: Code, dependency: Dependency | None) -> None:
    failure = told(error)

    assert (failure.code, failure.dependency) == (code, dependency)
    assert failure.failure_class is code.spec.failure_class


@pytest.mark.parametrize(
    ("code", "failure_class"),
    [
        (Code.STORE_UNAVAILABLE, FailureClass.OUTAGE),
        (Code.STORE_WRITE_UNCERTAIN, FailureClass.OUTAGE),
        (Code.BROKER_UNAVAILABLE, FailureClass.OUTAGE),
        (Code.BROKER_BLOCKED, FailureClass.OUTAGE),
        (Code.STORE_ACCESS_REFUSED, FailureClass.OPERATOR),
        (Code.BROKER_ACCESS_REFUSED, FailureClass.OPERATOR),
        (Code.TOPOLOGY_MISMATCH, FailureClass.OPERATOR),
        (Code.DOCUMENT_TOO_LARGE, FailureClass.PERMANENT),
        (Code.NOT_ENCODABLE, FailureClass.PERMANENT),
        (Code.STORE_REJECTED, FailureClass.PERMANENT),
        (Code.PUBLISH_REJECTED, FailureClass.TRANSIENT),
        (Code.UNEXPECTED_ERROR, FailureClass.UNKNOWN),
    ],
)
def test_no_outage_costs_an_attempt_and_nothing_permanent_is_retried(code: Code, failure_class: FailureClass) -> None:
    assert code.spec.failure_class is failure_class


def test_every_type_in_the_drivers_table_is_tested() -> None:
    from worker.mongo.errors import _BY_TYPE  # noqa: PLC0415 - the table itself is what is tested

    for kind, _ in _BY_TYPE:
        assert any(isinstance(error, kind) for error, *_ in ROWS), kind


@pytest.mark.parametrize(
    "error",
    [OverflowError("int"), encode_error("\ud800"), RecursionError(), ValueError("uuid"), InvalidDocument("key")],
    ids=lambda error: type(error).__name__,
)
def test_whatever_encoding_one_document_raises_says_it_can_never_be_stored(error: Exception) -> None:
    failure = failure_at_encode(error)

    assert (failure.code, failure.failure_class) == (Code.NOT_ENCODABLE, FailureClass.PERMANENT)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (10334, Code.DOCUMENT_TOO_LARGE),
        (121, Code.STORE_REJECTED),
        (11000, Code.STORE_REJECTED),
        (13, Code.STORE_ACCESS_REFUSED),
        (91, Code.STORE_UNAVAILABLE),
        (8, Code.UNEXPECTED_ERROR),
    ],
)
def test_an_entry_of_a_bulk_writes_errors_is_classified_by_its_number(number: int, code: Code) -> None:
    assert failure_of_write_error(number).code is code


@pytest.mark.parametrize("kind", [StoreUnavailable, OperatorFault, StoreRefused])
def test_what_was_classified_once_stays_as_it_is(kind: type[StoreUnavailable]) -> None:
    failure = store_too_busy()

    assert classify(kind(failure)) is failure


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (store_silent(), StoreUnavailable),
        (store_too_busy(), StoreUnavailable),
        (failure_of(refused(18)), OperatorFault),
        (document_too_large(), StoreRefused),
        (failure_of_write_error(8), StoreRefused),
    ],
)
def test_the_store_tells_outages_operator_faults_and_refusals_apart(failure: Failure, kind: type[Exception]) -> None:
    assert type(store_error(failure)) is kind


@pytest.mark.parametrize("error", [row[0] for row in ROWS], ids=repr)
def test_a_detail_holds_no_text_of_the_exception(error: BaseException) -> None:
    """A driver's text can hold documents, keys, commands and addresses."""
    secret = "mongodb://user:secret@host/ {'body': 'private'}"
    error.args = (secret, *error.args[1:])

    failure = told(error)

    assert "secret" not in failure.detail
    assert "private" not in failure.detail
    assert len(failure.detail) < 300


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("host:27017: [Errno 111] Connection refused", "ServerSelectionTimeoutError: connection refused"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] host private", "ServerSelectionTimeoutError: TLS certificate not accepted"),
        ("host: timed out (configured timeouts: …)", "ServerSelectionTimeoutError: timed out"),
    ],
)
def test_a_detail_says_why_nobody_answers_in_words_of_our_own(text: str, hint: str) -> None:
    assert failure_of(pymongo.errors.ServerSelectionTimeoutError(text)).detail.endswith(f"({hint})")


def caught(body: str, value: object, *, filler: int = 0, name: str = "worker.somewhere") -> Exception:
    """Return what code of ours raises that was compiled with *filler* lines above it, as in another version."""
    namespace: dict[str, Any] = {"__name__": name}
    exec("\n" * filler + f"def step(value):\n    {body}\n", namespace)  # noqa: S102 - it is the code under test
    try:
        namespace["step"](value)
    except Exception as error:  # noqa: BLE001 - any, that is the point
        return error
    raise AssertionError("it did not raise")


def test_the_same_bug_has_the_same_fingerprint_in_every_version_and_for_every_message() -> None:
    old = classify(caught("return {}[value]", "payload of one"))
    new = classify(caught("return {}[value]", "payload of another", filler=40))

    assert old.fingerprint == new.fingerprint
    assert old.failure_class is FailureClass.UNKNOWN
    assert "KeyError in worker.somewhere.step" in old.detail
    assert "payload" not in old.detail


def test_other_bugs_have_other_fingerprints() -> None:
    prints = {
        classify(caught("return {}[value]", 1)).fingerprint,
        classify(caught("return value.missing", 1)).fingerprint,
        classify(caught("return {}[value]", 1, name="worker.elsewhere")).fingerprint,
        classify(caught("return {}[value]", 1), Stage.STORE).fingerprint,
    }

    assert len(prints) == 4


def test_a_fingerprint_is_written_down_once_and_for_all() -> None:
    """Letters recorded by one version are grouped with those of the next: these values must never change."""
    assert fingerprint(Code.MALFORMED_JSON, Stage.DECODE) == "9d2749ca432b"
    assert fingerprint(Code.WRONG_TYPE, Stage.VALIDATE, "/body/attachments/3/mediaUrl") == "e487c68e2838"


def test_the_position_in_a_list_is_not_another_cause() -> None:
    first = fingerprint(Code.WRONG_TYPE, Stage.VALIDATE, "/body/attachments/0/mediaUrl")

    assert first == fingerprint(Code.WRONG_TYPE, Stage.VALIDATE, "/body/attachments/17/mediaUrl")
    assert first != fingerprint(Code.WRONG_TYPE, Stage.VALIDATE, "/body/attachments/0/size")
    assert re.fullmatch("[0-9a-f]{12}", first)


def test_letters_of_one_content_have_one_id_and_every_difference_makes_another() -> None:
    first = letter_id(b"body", "cause", "queue")

    assert first == letter_id(b"body", "cause", "queue")
    assert re.fullmatch("[0-9a-f]{24}", first)
    others = (letter_id(b"other", "cause", "queue"), letter_id(b"body", "causeq", "ueue"), letter_id(b"body", "cause"))
    assert len({first, *others}) == 4


def test_what_the_broker_says_has_no_full_stop_for_what_to_do_follows_it() -> None:
    assert str(rabbit.AccessRefused("Login was refused. For details see the broker logfile.")).endswith("logfile")
    missing = rabbit.ChannelClosed(404, "NOT_FOUND - no queue 'q'.").explained
    assert missing == "404 NOT_FOUND - no queue 'q'; run `cim-worker topology apply`"
