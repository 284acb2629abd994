"""The CIM wire contract: bytes in, a valid message or the reasons against it out. Pure."""

from worker.cim.conversation import ChannelSession, Conversation, ConversationState, Room
from worker.cim.message import CimMessage, Rejected, derived_id, parse

__all__ = [
    "ChannelSession",
    "CimMessage",
    "Conversation",
    "ConversationState",
    "Rejected",
    "Room",
    "derived_id",
    "parse",
]
