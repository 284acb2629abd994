"""A publish is written compiled as the Python form writes it; run by `make check-native`, where it is built."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from worker import compiled
from worker.rabbit.frames import encode_publish
from worker.rabbit.properties import encode_properties, encode_table

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["é" * 127, "é" * 128, "x" * 255]
)
OPTIONAL = st.none() | TEXTS


@given(
    st.fixed_dictionaries(
        dict.fromkeys(("correlation_id", "content_type", "content_encoding", "type_", "app_id", "user_id"), OPTIONAL)
        | {"message_id": TEXTS, "timestamp": st.none() | st.integers(0, 2**64 - 1), "mandatory": st.booleans()}
    ),
    *(
        st.dictionaries(TEXTS, TEXTS | st.integers(-(2**63), 2**63 - 1), max_size=3),
        TEXTS,
        TEXTS,
        st.binary(max_size=300),
    ),
)
@settings(max_examples=500, deadline=None)
def test_a_publish_is_written_alike(
    properties: dict[str, Any], headers: dict[str, str | int], exchange: str, routing_key: str, body: bytes
) -> None:
    mandatory = properties.pop("mandatory")
    table = encode_table(headers) if headers else None
    written = compiled.frames.publish(
        3, exchange, routing_key, body, 4096, table=table, mandatory=mandatory, **properties
    )
    if written is None:
        longest = max(
            len(text.encode()) for text in (*properties.values(), exchange, routing_key) if isinstance(text, str)
        )
        assert longest > 255 or len(encode_properties(headers=headers, **properties)) + 20 > 4096
    else:
        raw = encode_properties(headers=headers, **properties)
        assert written == encode_publish(3, exchange, routing_key, raw, body, frame_max=4096, mandatory=mandatory)


def test_half_a_surrogate_pair_is_left_to_the_python_form() -> None:
    facts: dict[str, Any] = dict.fromkeys(("content_type", "content_encoding", "correlation_id", "type_", "user_id"))
    written = compiled.frames.publish(
        1, "e", "k", b"", 4096, table=None, message_id="\ud800", timestamp=None, app_id=None, **facts
    )
    assert written is None
