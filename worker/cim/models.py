"""The CIM Message as a contract: header, sender, channel data and customer. Bodies are in `bodies.py`.

The models check types strictly and keep what they do not know. They judge a message; what travels on is the
message as it was sent, not a dump of these models.
"""

# ruff: noqa: N815 - fields carry the wire's own names.

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    SkipValidation,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from worker.cim.rules import NOT_BLANK, ONE_ANCHOR, RULES

NonBlank = Annotated[str, StringConstraints(pattern=NOT_BLANK), WithJsonSchema(RULES["Text"])]
MessageId = Annotated[str, WithJsonSchema(RULES["MessageId"])]
SenderId = Annotated[NonBlank, WithJsonSchema(RULES["SenderId"])]
PlaceId = Annotated[str, WithJsonSchema(RULES["PlaceId"])]
Timestamp = Annotated[SkipValidation[int | float | str | None], WithJsonSchema(RULES["Timestamp"])]
Number = float
"""Any JSON number; strict, so neither text nor true and false."""
JsonObject = dict[str, Any]
NUMBER_OR_TEXT_ERROR = "number_or_text"


class _NumberOrText:
    """Gives a union one error at one place; pydantic's own has one per branch, at places no document has."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source),
            custom_error_type=NUMBER_OR_TEXT_ERROR,
            custom_error_message="Input should be a number or a string",
        )


NumberOrText = Annotated[Number | str, _NumberOrText]


def _whole(number: float) -> float:
    if not number.is_integer():
        msg = "An integer."
        raise ValueError(msg)
    return number


class _WholeNumber:
    """Says of any other value that it is no integer."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(handler(source), custom_error_type="int_type")


WholeNumber = Annotated[
    int | Annotated[Number, AfterValidator(_whole)], _WholeNumber, WithJsonSchema({"type": "integer"})
]
"""Any JSON number without a fraction, `1.0` included: to most readers, and to JSON Schema, it is the same as `1`."""


class CimModel(BaseModel):
    """A CIM object: strict about the types of known fields, open for unknown ones."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, populate_by_name=False)


class Sender(CimModel):
    """Who submits the activity. `type` is an open set: APP, AGENT, BOT, CONNECTOR, IVR and whatever comes."""

    id: SenderId = Field(description="The one id the application always has.")
    type: str = Field(description="APP, AGENT, BOT, CONNECTOR, IVR, SYSTEM or any other.")
    senderName: str | None = Field(default=None, description="What reports group by.")
    additionalDetail: JsonObject | None = None


class AdditionalAttribute(CimModel):
    """A key and a value about the channel. The value is made into text on the way, as agent desks need it."""

    key: str | None = None
    type: str | None = None
    value: Any = None


class ChannelData(CimModel):
    """Over which channel; every string may be empty on this path."""

    channelCustomerIdentifier: str | None = None
    serviceIdentifier: str | None = None
    requestPriority: WholeNumber | None = None
    customerFirstName: str | None = None
    customerLastName: str | None = None
    additionalAttributes: list[AdditionalAttribute] | None = Field(
        default=None, description="In the event always an array, its values always text."
    )


class Customer(CimModel):
    """The customer; only the id matters, and only when it is the anchor. Everything else is a free profile."""

    id: PlaceId | None = Field(default=None, alias="_id", description="An anchor: the customer it belongs to.")
    firstName: str | None = None
    phoneNumber: list[str | None] | None = None
    isAnonymous: bool | None = None
    version: WholeNumber | None = Field(default=None, alias="__v")


class Header(CimModel):
    """Who, when and where: the sender and at least one anchor are mandatory."""

    model_config = ConfigDict(json_schema_extra={"anyOf": list(ONE_ANCHOR)})

    sender: Sender
    channelData: ChannelData | None = None
    language: JsonObject | None = None
    timestamp: Timestamp = Field(default=None, description="When it happened.")
    securityInfo: JsonObject | None = None
    stamps: list[str | None] | None = None
    intent: str | None = Field(default=None, description="Any; CIM_EVENT_NAMES may map it to an event's name.")
    entities: JsonObject | None = None
    channelSessionId: PlaceId | None = Field(default=None, description="An anchor: the channel session it belongs to.")
    conversationId: PlaceId | None = Field(default=None, description="The anchor that counts before all others.")
    customer: Customer | None = Field(default=None, description="Whose activity it is.")
    schedulingMetaData: JsonObject | None = None
    originalMessageId: str | None = None
    replyToMessageId: str | None = None
    providerMessageId: str | None = None
    roomId: PlaceId | None = Field(default=None, description="The room; else the conversation's own.")
    additionalData: JsonObject | None = None


class Body(CimModel):
    """What every body has, and all that is checked of a body whose type we do not know."""

    type: NonBlank = Field(description="A known type, whose fields are checked, or any other.")
    markdownText: str | None = Field(default=None, description="What people read.")


class Message(CimModel):
    """One CIM Message. The body is checked by the model of its type, see `bodies.BODY_MODELS`."""

    model_config = ConfigDict(title="CimMessage")

    id: MessageId | None = Field(default=None, description="Yours. Without one, one is derived from the content.")
    header: Header
    body: SkipValidation[Body]
