"""The body types this worker knows, each with the fields the contract gives it.

Required is what the platform's own code cannot do without; requirements that only a documentation page states, and that
the platform's own clients break, are not enforced. Types that are not listed here pass with all their keys.
"""

# ruff: noqa: N815 - fields carry the wire's own names.

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from worker.cim.models import Body, CimModel, JsonObject, Number, NumberOrText


class Attachment(CimModel):
    """A file on the file server."""

    mediaUrl: str
    mimeType: str | None = None
    size: Number | None = None
    thumbnail: str | None = None
    mediaLabel: str | None = None
    mediaName: str | None = None


class Media(Body):
    """IMAGE, VIDEO, AUDIO, FILE, MULTIMEDIA: a link to a file, never the file."""

    attachment: Attachment | None = None
    caption: str | None = None
    additionalDetails: Any = None


class Sticker(Body):
    """STICKER."""

    mediaUrl: str | None = None
    stickerId: str | None = None
    additionalDetails: Any = None


class Coordinates(CimModel):
    """A point on the map; no range is published, so none is checked."""

    latitude: Number
    longitude: Number


class Location(Body):
    """LOCATION."""

    location: Coordinates | None = None
    additionalDetails: Any = None


class ContactName(CimModel):
    """How a contact is called."""

    formattedName: str
    additionalNameDetails: Any = None


class ContactPhone(CimModel):
    """One phone of a contact."""

    phone: str | None = None
    additionalPhoneDetails: Any = None


class ContactCard(CimModel):
    """One contact."""

    name: ContactName | None = None
    phones: list[ContactPhone] | None = None
    additionalContactDetails: Any = None


class Contact(Body):
    """CONTACT."""

    contacts: list[ContactCard] | None = None
    additionalDetails: Any = None


class Url(Body):
    """URL: a link, such as a recording."""

    mediaUrl: str
    additionalDetails: Any = None


class ButtonItem(CimModel):
    """One button; its type is an open set."""

    title: str
    type: str
    payload: str
    additionalButtonDetails: Any = None


class Button(Body):
    """BUTTON: buttons or quick replies."""

    buttons: list[ButtonItem] | None = None
    buttonMessageType: Literal["BUTTON", "QUICK_REPLIES"] | None = None
    additionalDetails: Any = None


class DefaultAction(CimModel):
    """What a carousel element does when tapped."""

    type: str | None = None
    url: str | None = None


class CarouselElement(CimModel):
    """One card of a carousel."""

    text: str | None = None
    url: str | None = None
    buttons: list[ButtonItem] | None = None
    defaultAction: DefaultAction | None = None
    additionalCarouselElementDetails: Any = None


class Carousel(Body):
    """CAROUSEL."""

    carouselMessageType: Literal["MEDIA", "GENERIC_RICH_MEDIA"] | None = None
    elements: list[CarouselElement] | None = None
    additionalDetails: Any = None


class TemplateLanguage(CimModel):
    """The language of a template."""

    code: str
    policy: str


class TemplateParameter(CimModel):
    """One value of a template."""

    parameterType: str | None = None
    additionalParameterDetails: Any = None


class TemplateComponent(CimModel):
    """One part of a template."""

    type: str | None = None
    parameters: list[TemplateParameter] | None = None
    additionalComponentDetails: Any = None


class Template(Body):
    """TEMPLATE."""

    namespace: str
    name: str
    language: TemplateLanguage | None = None
    components: list[TemplateComponent] | None = None
    additionalDetails: Any = None


class ReceiptElement(CimModel):
    """One article of a receipt."""

    title: str | None = None
    subtitle: str | None = None
    quantity: NumberOrText | None = None
    price: NumberOrText | None = None
    currency: str | None = None
    imageUrl: str | None = None


class ReceiptSummary(CimModel):
    """The totals of a receipt."""

    subtotal: NumberOrText | None = None
    shippingCost: NumberOrText | None = None
    totalTax: NumberOrText | None = None
    totalCost: NumberOrText | None = None


class ReceiptAdjustment(CimModel):
    """A discount or surcharge."""

    name: str | None = None
    amount: NumberOrText | None = None


class Receipt(Body):
    """RECEIPT; `paymentMethode` is the platform's own spelling."""

    templateType: str | None = None
    sharable: bool | None = None
    recipientName: str | None = None
    merchantName: str | None = None
    orderNumber: NumberOrText | None = None
    currency: str | None = None
    paymentMethode: str | None = None
    timestamp: NumberOrText | None = None
    elements: list[ReceiptElement] | None = None
    address: JsonObject | None = None
    summary: ReceiptSummary | None = None
    adjustments: list[ReceiptAdjustment] | None = None
    additionalDetails: Any = None


class Structured(Body):
    """StructuredMessage."""

    additionalDetails: Any = None


class Custom(Body):
    """CUSTOM: any JSON."""

    jsonNode: Any = None


class WrapUpReason(CimModel):
    """Why a conversation ended, in the agent's words."""

    categoryName: str
    value: str


class WrapUp(Body):
    """WRAPUP."""

    wrapups: list[WrapUpReason]
    note: str | None = None


class Notification(Body):
    """NOTIFICATION; the documentation knows more types than the code, so the set stays open."""

    notificationType: str
    notificationData: JsonObject | None = None


class DeliveryNotification(Body):
    """DELIVERYNOTIFICATION: what became of another message, named by `messageId`."""

    messageId: str
    status: Literal["DELIVERED", "READ", "CONNECTED", "FAILED"]
    reasonCode: NumberOrText | None = None


class DeletedNotification(Body):
    """DELETEDNOTIFICATION."""

    messageId: str
    timestamp: NumberOrText | None = None


class Comment(Body):
    """COMMENT on a social post, reactions included."""

    postId: str
    itemType: Literal["VIDEO", "TEXT", "IMAGE", "LIKE", "UNLIKE", "DELETE", "HIDE", "PRIVATE_REPLY"]
    attachment: Attachment | None = None
    additionalData: Any = None


class Voice(Body):
    """VOICE: a call event, not an audio message."""

    callId: str | None = None
    leg: NumberOrText | None = None
    reasonCode: NumberOrText | None = None


class Email(Body):
    """EMAIL; nothing is required by code."""

    subject: str | None = None
    sender: str | None = Field(default=None, alias="from")
    replyTo: list[str | None] | None = None
    receivingDate: NumberOrText | None = None
    htmlBody: str | None = None
    recipientsTo: list[str | None] | None = None
    recipientsCc: list[str | None] | None = None
    recipientsBcc: list[str | None] | None = None
    emailThreads: list[Any] | None = None
    attachments: list[Attachment] | None = None
    additionalDetails: Any = None


class Action(Body):
    """ACTION: a bot asks the system for something."""

    name: str
    data: JsonObject


class FormAttribute(CimModel):
    """One question of a form with its answers."""

    id: NumberOrText | None = None
    label: str | None = None
    valueType: str | None = None
    attributeType: str | None = None
    skipType: Any = None
    attributeAttachment: Any = None
    attributeWeightage: NumberOrText | None = None
    attributeScore: NumberOrText | None = None
    answer: list[Any] | None = None


class FormSection(CimModel):
    """A group of questions."""

    sectionId: NumberOrText | None = None
    sectionName: str | None = None
    sectionWeightage: NumberOrText | None = None
    sectionScore: NumberOrText | None = None
    attributes: list[FormAttribute] | None = None


class FormData(Body):
    """FORM_DATA: a survey, a review, a filled form."""

    formId: str | None = None
    formTitle: str | None = None
    sections: list[FormSection] | None = None
    additionalDetail: JsonObject | None = None
    sentiment: Any = None
    formType: Any = None
    enableWeightage: bool | None = None
    enableSections: bool | None = None
    formWeightage: NumberOrText | None = None
    formScore: NumberOrText | None = None


class VoiceRecording(Body):
    """VOICE_RECORDING: two shapes exist, one with `mediaUrl`, one with `legId` and `voiceRecordingUrl`."""

    mediaUrl: str | None = None
    legId: NumberOrText | None = None
    voiceRecordingUrl: str | None = None


class IvrStep(CimModel):
    """One menu a caller went through."""

    menu: str | None = None
    selection: NumberOrText | None = None
    timestamp: NumberOrText | None = None
    metadata: Any = None


class IvrAggregatedActivity(Body):
    """IVR_AGGREGATED_ACTIVITY: the whole way of a caller through the voice menus."""

    callId: NumberOrText | None = None
    leg: NumberOrText | None = None
    startDirection: str
    endDirection: str | None = None
    startTime: NumberOrText | None = None
    endTime: NumberOrText | None = None
    activities: list[IvrStep] | None = None


BODY_MODELS: dict[str, type[Body]] = {
    "PLAIN": Body,
    "IMAGE": Media,
    "VIDEO": Media,
    "AUDIO": Media,
    "FILE": Media,
    "MULTIMEDIA": Media,
    "STICKER": Sticker,
    "LOCATION": Location,
    "CONTACT": Contact,
    "URL": Url,
    "BUTTON": Button,
    "CAROUSEL": Carousel,
    "TEMPLATE": Template,
    "RECEIPT": Receipt,
    "StructuredMessage": Structured,
    "CUSTOM": Custom,
    "WRAPUP": WrapUp,
    "NOTIFICATION": Notification,
    "DELIVERYNOTIFICATION": DeliveryNotification,
    "DELETEDNOTIFICATION": DeletedNotification,
    "COMMENT": Comment,
    "VOICE": Voice,
    "EMAIL": Email,
    "ACTION": Action,
    "FORM_DATA": FormData,
    "VOICE_RECORDING": VoiceRecording,
    "IVR_AGGREGATED_ACTIVITY": IvrAggregatedActivity,
}
"""Body type to its model. Anything else is an open type and is judged by `Body` alone."""
