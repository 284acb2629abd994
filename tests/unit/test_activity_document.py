"""The document of an activity is the same bytes, whether they are written from its JSON or from what that says.

Where writing from JSON was not built, the Python form is compared with itself.
"""

from __future__ import annotations

from typing import Any

import orjson
from bson.datetime_ms import DatetimeMS
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import shapes
from tests.support.examples import NAMES, RECEIVED_AT, accepted, document
from worker.cim import CimMessage, parse
from worker.conversations.conversation import ChannelSession, Conversation, Room
from worker.failure import Failure
from worker.mongo.activities import activity_document, encode
from worker.mongo.bulk import Encoded, encode_alone
from worker.pipeline.ports import StoredBecause
from worker.pipeline.translate import Activity, translate

PLAIN = [orjson.dumps(accepted(document(name)).wire) for name in NAMES]
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=8) | st.sampled_from(
    ['"', "\\", "/", "\x00", "\x1f", "\x7f\b\f\n\r\t", "id", "_id", "é€😀", "a.b", "$x"]
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=4)


def conversations() -> st.SearchStrategy[Conversation | None]:
    return st.none() | st.builds(
        lambda session, room: Conversation(
            "c", "CLOSED", "customer", Room.of(room), (ChannelSession.of({**session, "id": "s"}),), 1
        ),
        OBJECTS,
        OBJECTS,
    )


def same(activity: Activity) -> None:
    ours, plainly = encode(activity, 7), encode_alone(activity_document(activity, DatetimeMS(7)))
    if isinstance(plainly, Failure):
        assert ours == plainly
    else:
        assert isinstance(ours, Encoded)
        assert (ours.document.raw, ours.size) == (plainly.document.raw, plainly.size)


@given(
    st.sampled_from(PLAIN), st.lists(shapes.spoilings(), max_size=2), conversations(), st.sampled_from(StoredBecause)
)
@settings(max_examples=150, deadline=None)
def test_whatever_is_stored_both_ways_write_the_same(
    body: bytes, spoilings: list[Any], conversation: Conversation | None, why: StoredBecause
) -> None:
    message = parse(shapes.spoilt(body, spoilings), received_at=RECEIVED_AT)
    if isinstance(message, CimMessage):
        same(translate(message, conversation, now=1)._replace(stored_because=why))


@given(OBJECTS)
@settings(max_examples=100, deadline=None)
def test_whatever_a_message_holds_both_ways_write_the_same(held: dict[str, Any]) -> None:
    whole = {**orjson.loads(PLAIN[0]), "held": held}
    message = parse(orjson.dumps(whole), received_at=RECEIVED_AT)
    assert isinstance(message, CimMessage)
    same(translate(message, None, now=1))
