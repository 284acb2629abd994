"""Every body type of the contract: what it requires, what it forbids, and what it leaves open."""

from typing import Any

import pytest
from pydantic import BaseModel

from tests.support.examples import NAMES, accepted, document, problems, raw, spoilt
from worker.cim.bodies import BODY_MODELS
from worker.cim.models import Message

EXAMPLE_OF = {document(name)["body"]["type"]: name for name in NAMES}


@pytest.mark.parametrize("body_type", list(BODY_MODELS))
def test_every_known_body_type_has_an_example_that_is_accepted(body_type: str) -> None:
    assert accepted(raw(EXAMPLE_OF[body_type])).body_type == body_type


@pytest.mark.parametrize("body_type", list(BODY_MODELS))
def test_optional_fields_may_be_null_and_unknown_ones_anything(body_type: str) -> None:
    message = document(EXAMPLE_OF[body_type])
    for name, field in BODY_MODELS[body_type].model_fields.items():
        if not field.is_required():
            message["body"][field.alias or name] = None
    message["body"]["unheardOf"] = {"a": [1, None, "x"]}
    assert accepted(message).wire["body"] == message["body"]


REQUIRED = [
    ("URL", "mediaUrl"),
    ("TEMPLATE", "namespace"),
    ("TEMPLATE", "name"),
    ("TEMPLATE", "language/code"),
    ("TEMPLATE", "language/policy"),
    ("IMAGE", "attachment/mediaUrl"),
    ("VIDEO", "attachment/mediaUrl"),
    ("AUDIO", "attachment/mediaUrl"),
    ("FILE", "attachment/mediaUrl"),
    ("MULTIMEDIA", "attachment/mediaUrl"),
    ("LOCATION", "location/latitude"),
    ("LOCATION", "location/longitude"),
    ("CONTACT", "contacts/0/name/formattedName"),
    ("BUTTON", "buttons/0/title"),
    ("BUTTON", "buttons/0/type"),
    ("BUTTON", "buttons/0/payload"),
    ("WRAPUP", "wrapups"),
    ("WRAPUP", "wrapups/0/categoryName"),
    ("WRAPUP", "wrapups/0/value"),
    ("NOTIFICATION", "notificationType"),
    ("DELIVERYNOTIFICATION", "messageId"),
    ("DELIVERYNOTIFICATION", "status"),
    ("DELETEDNOTIFICATION", "messageId"),
    ("COMMENT", "postId"),
    ("COMMENT", "itemType"),
    ("ACTION", "name"),
    ("ACTION", "data"),
    ("IVR_AGGREGATED_ACTIVITY", "startDirection"),
]


@pytest.mark.parametrize("absent", [..., None])
@pytest.mark.parametrize(("body_type", "path"), REQUIRED)
def test_a_required_field_must_be_there(body_type: str, path: str, absent: Any) -> None:
    assert problems(spoilt(f"body/{path}", absent, EXAMPLE_OF[body_type])) == [("missing_field", f"/body/{path}")]


@pytest.mark.parametrize(
    ("body_type", "path", "value"),
    [
        ("IMAGE", "attachment", "https://files.example.org/f/1"),
        ("IMAGE", "attachment/size", "1024"),
        ("IMAGE", "caption", 1),
        ("LOCATION", "location/latitude", "33.7"),
        ("LOCATION", "location/latitude", True),
        ("CONTACT", "contacts", {}),
        ("CONTACT", "contacts/0", None),
        ("CONTACT", "contacts/0/phones/0/phone", 155),
        ("URL", "mediaUrl", 1),
        ("BUTTON", "buttons", "yes"),
        ("WRAPUP", "wrapups", {}),
        ("WRAPUP", "note", []),
        ("DELIVERYNOTIFICATION", "messageId", 7),
        ("DELIVERYNOTIFICATION", "reasonCode", True),
        ("DELIVERYNOTIFICATION", "reasonCode", {}),
        ("EMAIL", "from", {"address": "x"}),
        ("EMAIL", "recipientsTo", "x"),
        ("ACTION", "data", []),
        ("FORM_DATA", "formId", 1),
        ("FORM_DATA", "sections", {}),
        ("FORM_DATA", "sections/0/attributes", "x"),
        ("FORM_DATA", "sections/0/attributes/1/answer", "x"),
        ("IVR_AGGREGATED_ACTIVITY", "activities", {}),
        ("VOICE_RECORDING", "mediaUrl", 42),
    ],
)
def test_a_known_field_must_have_its_type(body_type: str, path: str, value: Any) -> None:
    assert problems(spoilt(f"body/{path}", value, EXAMPLE_OF[body_type])) == [("wrong_type", f"/body/{path}")]


@pytest.mark.parametrize(
    ("body_type", "path"),
    [
        ("DELIVERYNOTIFICATION", "status"),
        ("COMMENT", "itemType"),
        ("BUTTON", "buttonMessageType"),
        ("CAROUSEL", "carouselMessageType"),
    ],
)
def test_sets_that_the_platform_closes_are_closed(body_type: str, path: str) -> None:
    assert problems(spoilt(f"body/{path}", "NEW", EXAMPLE_OF[body_type])) == [("invalid_value", f"/body/{path}")]


@pytest.mark.parametrize("reason_code", [200, "200", "CALL_REJECTED", 4.5, None])
def test_a_reason_code_is_a_number_or_a_string(reason_code: Any) -> None:
    accepted(spoilt("body/reasonCode", reason_code, EXAMPLE_OF["DELIVERYNOTIFICATION"]))


@pytest.mark.parametrize(
    ("body_type", "path"),
    [
        ("STICKER", "mediaUrl"),
        ("VOICE", "callId"),
        ("VOICE", "leg"),
        ("FORM_DATA", "formId"),
        ("FORM_DATA", "formTitle"),
        ("CONTACT", "contacts/0/phones/0/phone"),
        ("BUTTON", "buttonMessageType"),
        ("EMAIL", "from"),
        ("EMAIL", "replyTo"),
        ("EMAIL", "receivingDate"),
    ],
)
def test_what_only_a_page_requires_is_not_enforced(body_type: str, path: str) -> None:
    for absent in (..., None):
        accepted(spoilt(f"body/{path}", absent, EXAMPLE_OF[body_type]))


@pytest.mark.parametrize("body_type", ["FNB", "image", "DELIVERY_NOTIFICATION", "FORMDATA", "WIDGET_FORM", "😀"])
def test_an_unknown_type_passes_with_all_its_keys(body_type: str) -> None:
    body = {"type": body_type, "attachment": 1, "wrapups": None, "nested": {"a": [{"b": None}]}}
    assert accepted(spoilt("body", body)).wire["body"] == body


def test_the_expected_sentence_names_the_body_type_and_the_choice() -> None:
    from tests.support.examples import judge  # noqa: PLC0415

    result = judge(spoilt("body/status", "NEW", EXAMPLE_OF["DELIVERYNOTIFICATION"]))
    assert result.first.expected == "One of 'DELIVERED', 'READ', 'CONNECTED' or 'FAILED'."  # type: ignore[union-attr]


@pytest.mark.parametrize("model", [Message, *dict.fromkeys(BODY_MODELS.values())], ids=lambda model: model.__name__)
def test_every_model_can_be_written_as_json_schema(model: type[BaseModel]) -> None:
    schema = model.model_json_schema(by_alias=True)
    assert schema["additionalProperties"] is True
