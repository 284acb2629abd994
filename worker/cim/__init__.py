"""The CIM wire contract: bytes in, a valid message or the reasons against it out. No I/O."""

from worker.cim.canonical import derived_id
from worker.cim.message import CimMessage, Identity, Rejected
from worker.cim.parsing import parse

__all__ = ["CimMessage", "Identity", "Rejected", "derived_id", "parse"]
