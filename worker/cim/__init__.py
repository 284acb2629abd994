"""The CIM wire contract: bytes in, a valid message or the reasons against it out. Pure."""

from worker.cim.conversation import Conversation, ConversationState
from worker.cim.message import CimMessage, Rejected, derived_id, parse

__all__ = ["CimMessage", "Conversation", "ConversationState", "Rejected", "derived_id", "parse"]
