"""A publish is written compiled as the Python form writes it; run by `make check-native`, where it is built."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from worker import compiled
from worker.ports import Outgoing
from worker.rabbit.frames import encode_publish
from worker.rabbit.properties import encode_properties, encode_table

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["é" * 127, "é" * 128, "x" * 255]
)
OPTIONAL = st.none() | TEXTS


OUTGOING = st.builds(
    Outgoing,
    *(TEXTS, TEXTS, TEXTS, st.binary(max_size=300)),
    correlation_id=OPTIONAL,
    type=OPTIONAL,
    app_id=OPTIONAL,
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    content_type=OPTIONAL,
    content_encoding=OPTIONAL,
    headers=st.none() | st.dictionaries(TEXTS, TEXTS | st.integers(-(2**63), 2**63 - 1), max_size=3),
    reply_to=st.none() | st.none() | TEXTS,
)


def written_purely(message: Outgoing, user_id: str | None, *, mandatory: bool) -> bytes:
    properties = encode_properties(
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        headers=message.headers,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        timestamp=message.timestamp,
        type_=message.type,
        app_id=message.app_id,
        user_id=user_id,
    )
    return encode_publish(
        3, message.exchange, message.routing_key, properties, message.body, frame_max=4096, mandatory=mandatory
    )


def is_left_to_the_python_form(message: Outgoing, user_id: str | None) -> bool:
    texts = [one for one in (*message, user_id) if isinstance(one, str)]
    is_long = any(len(text.encode()) > 255 for text in texts)
    return is_long or message.reply_to is not None or len(written_purely(message, user_id, mandatory=True)) > 4096


@given(st.lists(OUTGOING, max_size=4), OPTIONAL, st.booleans())
@settings(max_examples=500, deadline=None)
def test_publishes_are_written_alike(messages: list[Outgoing], user_id: str | None, mandatory: bool) -> None:  # noqa: FBT001 - drawn
    written = compiled.frames.publish_run(3, messages, 4096, user_id, encode_table, mandatory)
    if written is None:
        assert any(is_left_to_the_python_form(message, user_id) for message in messages)
    else:
        assert written == b"".join(written_purely(message, user_id, mandatory=mandatory) for message in messages)


def test_half_a_surrogate_pair_is_left_to_the_python_form() -> None:
    assert compiled.frames.publish_run(1, [Outgoing("e", "k", "\ud800", b"")], 4096, None, encode_table) is None
