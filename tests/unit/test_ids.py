"""What an id may be: anything that can name a place and does no harm in a log."""

import pytest

from tests.support.examples import accepted, problems, spoilt
from worker.cim.ids import MAX_ID_BYTES, has_control_character, is_too_long, is_valid_id

CONTROL = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
ID_PATHS = ["id", "header/sender/id", "header/conversationId", "header/channelSessionId", "header/customer/_id"]


@pytest.mark.parametrize(
    "text",
    ["c-1", "65f0c0ffee0000000000abcd", "room 7 / ümlaut", "+1 555 0100", "٣", "😀", "a\u2028b", "a\u200bb", "\xa0x"],
)
def test_an_id_may_hold_anything_that_is_no_control_character(text: str) -> None:
    assert is_valid_id(text)
    assert accepted(spoilt("header/conversationId", text)).conversation_id == text


@pytest.mark.parametrize("character", CONTROL, ids=lambda one: f"U+{ord(one):04X}")
def test_no_control_character_is_allowed_in_an_id(character: str) -> None:
    assert not is_valid_id(f"c-1{character}")
    assert problems(spoilt("header/conversationId", f"c-1{character}")) == [("invalid_id", "/header/conversationId")]


@pytest.mark.parametrize("path", [*ID_PATHS, "header/roomId"])
def test_every_id_of_a_message_is_looked_at(path: str) -> None:
    assert problems(spoilt(path, "a\nb")) == [("invalid_id", f"/{path}")]


def test_half_a_surrogate_pair_which_only_a_command_line_can_hold_is_no_id() -> None:
    assert has_control_character("\udcff")
    assert not is_valid_id("c-\udcff")


@pytest.mark.parametrize("blank", ["", " ", "\n", "\t "])
def test_a_blank_id_names_nothing_and_counts_as_absent(blank: str) -> None:
    assert not is_valid_id(blank)
    assert accepted(spoilt("header/roomId", blank)).room_id is None


@pytest.mark.parametrize("longest", ["c" * MAX_ID_BYTES, "ü" * (MAX_ID_BYTES // 2)])
def test_the_length_of_an_id_is_counted_in_bytes(longest: str) -> None:
    assert is_valid_id(longest)
    assert is_too_long(longest + "x")
    assert not is_valid_id(longest + "x")


def test_ids_that_name_no_place_may_be_long() -> None:
    assert accepted(spoilt("id", "m" * 1000)).id == "m" * 1000
