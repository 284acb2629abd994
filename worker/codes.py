"""The catalogue of reasons: every code a message can be rejected, retried or dead-lettered with.

The enum is the source. Headers, logs, metrics, `validate` and the documentation take codes, stages and
sentences from here, and nowhere else. A code, once released, keeps its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """Where in the pipeline a problem was found."""

    DECODE = "decode"
    VALIDATE = "validate"
    TRANSLATE = "translate"
    ROUTE = "route"
    PUBLISH = "publish"
    STORE = "store"
    BROKER = "broker"


class Disposition(StrEnum):
    """What happens to a delivery that failed."""

    DEAD = "dead"
    """It goes to the dead letters at once."""
    RETRIED = "retried"
    """It comes back later while attempts are left."""
    HELD = "held"
    """It waits until the dependency can be used again; no attempt is spent and it is never dead-lettered for this."""


class FailureClass(StrEnum):
    """What a failure means for the message; `disposition` says what happens next."""

    INVALID = "invalid"
    """The bytes are wrong and do not improve with age: dead at once."""
    PERMANENT = "permanent"
    """The store or the broker says never: dead at once."""
    TRANSIENT = "transient"
    """This message failed but may succeed later: retried while attempts are left."""
    OPERATOR = "operator"
    """Credentials, permissions or topology: nobody's message is at fault; stop and say so."""
    OUTAGE = "outage"
    """A dependency is away: wait, spend no attempts, dead-letter nothing."""
    UNKNOWN = "unknown"
    """A bug until proven otherwise: retried with the same cap, then dead."""

    @property
    def disposition(self) -> Disposition:
        """What happens to a delivery that failed in this way."""
        return _DISPOSITIONS[self]


_DISPOSITIONS = {
    FailureClass.INVALID: Disposition.DEAD,
    FailureClass.PERMANENT: Disposition.DEAD,
    FailureClass.TRANSIENT: Disposition.RETRIED,
    FailureClass.UNKNOWN: Disposition.RETRIED,
    FailureClass.OPERATOR: Disposition.HELD,
    FailureClass.OUTAGE: Disposition.HELD,
}


class Code(StrEnum):
    """Stable reason codes. `Code.spec` tells class, stage, a sentence and the fix of each."""

    # The bytes.
    MESSAGE_TOO_LARGE = "message_too_large"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    INVALID_UTF8 = "invalid_utf8"
    MALFORMED_JSON = "malformed_json"
    NOT_AN_OBJECT = "not_an_object"
    DUPLICATE_KEY = "duplicate_key"
    NUMBER_NOT_FINITE = "number_not_finite"
    INTEGER_OUT_OF_RANGE = "integer_out_of_range"
    NESTING_TOO_DEEP = "nesting_too_deep"
    INVALID_UNICODE = "invalid_unicode"

    # The message.
    MISSING_SENDER = "missing_sender"
    MISSING_SENDER_ID = "missing_sender_id"
    MISSING_SENDER_TYPE = "missing_sender_type"
    MISSING_BODY = "missing_body"
    MISSING_BODY_TYPE = "missing_body_type"
    MISSING_ANCHOR = "missing_anchor"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    INVALID_VALUE = "invalid_value"
    INVALID_TIMESTAMP = "invalid_timestamp"
    ID_TOO_LONG = "id_too_long"
    INVALID_ID = "invalid_id"
    SENDER_NOT_ALLOWED = "sender_not_allowed"

    # What happened to it on the way.
    STORE_REJECTED = "store_rejected"
    DOCUMENT_TOO_LARGE = "document_too_large"
    NOT_ENCODABLE = "not_encodable"
    UNREADABLE_RECORD = "unreadable_record"
    EXCHANGE_TAKEN = "exchange_taken"
    PUBLISH_REJECTED = "publish_rejected"
    STORE_WRITE_UNCERTAIN = "store_write_uncertain"
    UNEXPECTED_ERROR = "unexpected_error"

    # Nobody's message: why the work waits. In logs and metrics, never on a dead letter.
    STORE_UNAVAILABLE = "store_unavailable"
    STORE_ACCESS_REFUSED = "store_access_refused"
    BROKER_UNAVAILABLE = "broker_unavailable"
    BROKER_BLOCKED = "broker_blocked"
    BROKER_ACCESS_REFUSED = "broker_access_refused"
    TOPOLOGY_MISMATCH = "topology_mismatch"

    # Letters that reached the dead-letter queue by other hands.
    DELIVERY_LIMIT = "delivery_limit"
    BROKER_EXPIRED = "broker_expired"
    BROKER_MAXLEN = "broker_maxlen"
    BROKER_REJECTED = "broker_rejected"
    FOREIGN_LETTER = "foreign_letter"

    @property
    def spec(self) -> CodeSpec:
        """Return class, stage and explanation of this code."""
        return _SPECS[self]


@dataclass(frozen=True, slots=True)
class CodeSpec:
    """What is promised about a code."""

    failure_class: FailureClass
    stage: Stage
    meaning: str
    """One sentence for the publisher or the developer on call: what was expected, or what happened. Where a message is
    invalid it stands beside what was found, so it says how things have to be."""
    fix: str
    """One sentence that says what to do about it."""


def _invalid(stage: Stage, meaning: str, fix: str) -> CodeSpec:
    return CodeSpec(FailureClass.INVALID, stage, meaning, fix)


_SPECS: dict[Code, CodeSpec] = {
    Code.MESSAGE_TOO_LARGE: _invalid(
        Stage.DECODE,
        "The body is larger than the configured limit; send a link instead of the content.",
        "Put the content on a file server and send its address; or have CIM_MAX_MESSAGE_BYTES raised.",
    ),
    Code.UNSUPPORTED_ENCODING: _invalid(
        Stage.DECODE,
        "The property content_encoding has to be gzip or deflate, or absent, and the body packed as it says.",
        "Send the body as it is, or packed with gzip or deflate and the property set to that name.",
    ),
    Code.INVALID_UTF8: _invalid(
        Stage.DECODE,
        "The body has to be UTF-8.",
        "Encode the JSON as UTF-8; look for a serialiser that uses the encoding of its machine.",
    ),
    Code.MALFORMED_JSON: _invalid(
        Stage.DECODE,
        "The body has to be JSON.",
        "Write the body with a JSON library instead of putting text together; the detail names line and column.",
    ),
    Code.NOT_AN_OBJECT: _invalid(
        Stage.DECODE,
        "The body has to be one JSON object: one CIM message per delivery.",
        "Publish each message of an array as a delivery of its own; `cim-worker publish` splits arrays.",
    ),
    Code.DUPLICATE_KEY: _invalid(
        Stage.DECODE,
        "A key may stand only once in an object; readers disagree on which of two counts.",
        "Remove one of the two; look for a serialiser that appends instead of replacing.",
    ),
    Code.NUMBER_NOT_FINITE: _invalid(
        Stage.DECODE,
        "Numbers have to be finite: NaN, Infinity and what is too large for a double are no JSON.",
        "Send null, or leave the field out, where there is no number.",
    ),
    Code.INTEGER_OUT_OF_RANGE: _invalid(
        Stage.DECODE,
        "Integers have to fit 64 bits; longer ones are sent as strings.",
        "Send long numbers and ids as strings.",
    ),
    Code.NESTING_TOO_DEEP: _invalid(
        Stage.DECODE,
        "Objects and arrays may be nested at most 64 levels deep.",
        "Flatten the content, or send it as a string or as a link.",
    ),
    Code.INVALID_UNICODE: _invalid(
        Stage.DECODE,
        "Strings have to be valid Unicode; half of a surrogate pair is not.",
        "Do not cut texts in the middle of a character: cut by code points.",
    ),
    Code.MISSING_SENDER: _invalid(
        Stage.VALIDATE,
        "header.sender is mandatory: an object with id and type.",
        "Add header.sender with the id and type of your application.",
    ),
    Code.MISSING_SENDER_ID: _invalid(
        Stage.VALIDATE,
        "header.sender.id is mandatory: a non-blank string.",
        "Set header.sender.id to the one id your application always has.",
    ),
    Code.MISSING_SENDER_TYPE: _invalid(
        Stage.VALIDATE,
        "header.sender.type is mandatory: a string such as APP, AGENT, BOT, CONNECTOR or IVR.",
        "Set header.sender.type, for an application to APP.",
    ),
    Code.MISSING_BODY: _invalid(
        Stage.VALIDATE,
        "body is mandatory: an object with a type.",
        "Add body with a type; any type of your own will do.",
    ),
    Code.MISSING_BODY_TYPE: _invalid(
        Stage.VALIDATE, "body.type is mandatory: a non-blank string.", "Set body.type; any name of your own will do."
    ),
    Code.MISSING_ANCHOR: _invalid(
        Stage.VALIDATE,
        "The header has to name a customer._id, channelSessionId or conversationId (null and empty count as absent).",
        "Name the conversation, the channel session or the customer the activity belongs to.",
    ),
    Code.MISSING_FIELD: _invalid(
        Stage.VALIDATE,
        "A field that this body type requires is missing.",
        "Add the field that the pointer names, or use a body type of your own.",
    ),
    Code.WRONG_TYPE: _invalid(
        Stage.VALIDATE,
        "A known field has the wrong JSON type.",
        "Send the field that the pointer names as the type that is expected; leave it out where there is none.",
    ),
    Code.INVALID_VALUE: _invalid(
        Stage.VALIDATE,
        "A known field has a value outside the ones it can take.",
        "Send one of the values that are expected; they are case-sensitive.",
    ),
    Code.INVALID_TIMESTAMP: _invalid(
        Stage.VALIDATE,
        "A timestamp is epoch milliseconds or seconds, as a number or digits, or ISO-8601 (without an offset: UTC).",
        "Send epoch milliseconds; leave the field out to have the time of receipt.",
    ),
    Code.ID_TOO_LONG: _invalid(
        Stage.VALIDATE,
        "An id of a place may have at most 242 bytes of UTF-8.",
        "Use a shorter id; the name of the conversation's exchange has to hold it.",
    ),
    Code.INVALID_ID: _invalid(
        Stage.VALIDATE,
        "An id may hold no control character (U+0000 to U+001F, U+007F to U+009F).",
        "Remove line ends and other control characters; they often come from reading a file or a form.",
    ),
    Code.SENDER_NOT_ALLOWED: _invalid(
        Stage.VALIDATE,
        "The broker user that published this message is not allowed to send as this sender.",
        "Publish as the broker user of this sender with the property user_id; or have CIM_SENDER_USERS changed.",
    ),
    Code.STORE_REJECTED: CodeSpec(
        FailureClass.PERMANENT,
        Stage.STORE,
        "The store refuses this document permanently.",
        "Look up the detail's number in the store's manual; correct the message or the store's rules, then replay.",
    ),
    Code.DOCUMENT_TOO_LARGE: CodeSpec(
        FailureClass.PERMANENT,
        Stage.STORE,
        "The document is larger than the store accepts.",
        "Have the publisher send a link instead of the content.",
    ),
    Code.NOT_ENCODABLE: CodeSpec(
        FailureClass.PERMANENT,
        Stage.STORE,
        "The message contains something the store cannot encode, such as a key with a NUL character.",
        "Have the publisher remove what the detail names, such as NUL characters in keys.",
    ),
    Code.UNREADABLE_RECORD: CodeSpec(
        FailureClass.PERMANENT,
        Stage.STORE,
        "The registry's record of this conversation cannot be read; correct or delete it, then replay.",
        "Correct the document in the collection conversations, or delete it, then replay the letter.",
    ),
    Code.EXCHANGE_TAKEN: CodeSpec(
        FailureClass.PERMANENT,
        Stage.BROKER,
        "Another exchange has the name of this conversation's exchange; its activities are stored.",
        "Delete the other exchange, or give it another name, then run `cim-worker conversations open`.",
    ),
    Code.PUBLISH_REJECTED: CodeSpec(
        FailureClass.TRANSIENT,
        Stage.PUBLISH,
        "The broker did not accept the event (negative confirm).",
        "Look for a full queue or a policy on the conversation's exchange; the letter can be replayed.",
    ),
    Code.STORE_WRITE_UNCERTAIN: CodeSpec(
        FailureClass.OUTAGE,
        Stage.STORE,
        "The store applied the write but did not confirm it on a majority of its members.",
        "Bring the missing members of the replica set back; nothing has to be replayed.",
    ),
    Code.UNEXPECTED_ERROR: CodeSpec(
        FailureClass.UNKNOWN,
        Stage.TRANSLATE,
        "Unexpected error in the worker; failures with the same cause have the same fingerprint.",
        "Report it with fingerprint and version; replay the letter with a version in which it is corrected.",
    ),
    Code.STORE_UNAVAILABLE: CodeSpec(
        FailureClass.OUTAGE,
        Stage.STORE,
        "The store does not answer, or the result of a write is unknown; the work waits and is repeated.",
        "Bring the store back, or correct CIM_MONGODB_URI; what waits is stored by itself.",
    ),
    Code.STORE_ACCESS_REFUSED: CodeSpec(
        FailureClass.OPERATOR,
        Stage.STORE,
        "The store refuses the worker's credentials, permissions or options; correct the settings or the rights.",
        "Give the user of CIM_MONGODB_URI readWrite on the database, or correct its password.",
    ),
    Code.BROKER_UNAVAILABLE: CodeSpec(
        FailureClass.OUTAGE,
        Stage.BROKER,
        "The broker does not answer, or the result of a publish is unknown; the work waits and is repeated.",
        "Bring the broker back, or correct CIM_RABBITMQ_URL; the worker reconnects by itself.",
    ),
    Code.BROKER_BLOCKED: CodeSpec(
        FailureClass.OUTAGE,
        Stage.BROKER,
        "The broker accepts no messages while its memory or disk alarm is on; the work waits.",
        "Free memory or disk of the broker; the worker goes on by itself.",
    ),
    Code.BROKER_ACCESS_REFUSED: CodeSpec(
        FailureClass.OPERATOR,
        Stage.BROKER,
        "The broker refuses the worker's credentials, virtual host or permissions; correct the settings or the rights.",
        "Give the user the rights that `deploy/README.md` lists, or correct user, password and virtual host.",
    ),
    Code.TOPOLOGY_MISMATCH: CodeSpec(
        FailureClass.OPERATOR,
        Stage.BROKER,
        "A queue or exchange is missing or has unexpected arguments; see `cim-worker topology check`.",
        "Run `cim-worker topology apply`; what it cannot change it names with the way to correct it.",
    ),
    Code.DELIVERY_LIMIT: CodeSpec(
        FailureClass.PERMANENT,
        Stage.BROKER,
        "The broker gave up after too many unacknowledged deliveries: the message probably crashes its consumer.",
        "Look in the workers' logs for crashes at that time, and report the message; replay it one at a time.",
    ),
    Code.BROKER_EXPIRED: CodeSpec(
        FailureClass.PERMANENT,
        Stage.BROKER,
        "The message expired in a queue before it was consumed.",
        "Remove the queue's policy message-ttl, or the publisher's property expiration, then replay.",
    ),
    Code.BROKER_MAXLEN: CodeSpec(
        FailureClass.PERMANENT,
        Stage.BROKER,
        "A queue was full and dropped the message.",
        "Remove the policy that drops messages of a full queue (`cim-worker topology check` names it), then replay.",
    ),
    Code.BROKER_REJECTED: CodeSpec(
        FailureClass.PERMANENT,
        Stage.BROKER,
        "A consumer rejected the message without giving a reason.",
        "Find out who else consumes the queue and rejects; only workers should, then replay.",
    ),
    Code.FOREIGN_LETTER: CodeSpec(
        FailureClass.UNKNOWN,
        Stage.BROKER,
        "Published to the dead-letter queue without reason headers, and not by a worker.",
        "Find out who publishes to cim.dead-letters; replay the letter if it belongs into cim.ingress.",
    ),
}


class WarningCode(StrEnum):
    """What is probably a mistake and never a reason to reject; `cim-worker validate` shows it."""

    MISSPELT_FIELD = "misspelt_field"
    MISSPELT_BODY_TYPE = "misspelt_body_type"
    LOWER_CASE_TYPE = "lower_case_type"
    IMPLAUSIBLE_TIME = "implausible_time"
    TIME_IN_SECONDS = "time_in_seconds"
    BLANKS_AROUND_ID = "blanks_around_id"
    PLACEHOLDER_ID = "placeholder_id"
    PERSONAL_DATA = "personal_data"
    INEXACT_NUMBER = "inexact_number"

    @property
    def meaning(self) -> str:
        """One sentence for the publisher."""
        return _WARNINGS[self]


_WARNINGS = {
    WarningCode.MISSPELT_FIELD: "A field is named nearly like a known one, such as `conversation_id`, and is not read.",
    WarningCode.MISSPELT_BODY_TYPE: "The body type is nearly a known one; as it stands its fields are not checked.",
    WarningCode.LOWER_CASE_TYPE: "A type of body or sender is in lower case; types are compared letter by letter.",
    WarningCode.TIME_IN_SECONDS: "A time is in seconds; CIM counts milliseconds, only header.timestamp is converted.",
    WarningCode.BLANKS_AROUND_ID: "An id begins or ends with a blank, which makes it another id.",
    WarningCode.PLACEHOLDER_ID: "An id is what a program writes that has none, such as `undefined` or `{{id}}`.",
    WarningCode.PERSONAL_DATA: "An id that is written to logs looks like an e-mail address or a phone number.",
    WarningCode.IMPLAUSIBLE_TIME: "header.timestamp lies before the year 2000 or more than a day in the future.",
    WarningCode.INEXACT_NUMBER: "A number has more digits than a double holds, so readers get another one.",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a message. Holds no part of the payload, so it may travel in headers and logs."""

    code: Code
    pointer: str
    """JSON pointer (RFC 6901) to the field; empty for the whole document."""
    expected: str
    """What was expected there, in one sentence."""
