"""The public contract as documents: JSON Schema of everything that travels, and pages to read. No I/O.

Made from the models and catalogues the worker itself uses, so `cim-worker schemas` needs no file; the copies in the
folder `schemas/` of the repository are compared with them by a test.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from worker.schemas.asyncapi import asyncapi
from worker.schemas.dead_letter import headers_schema, letter_schema
from worker.schemas.event import event_schema
from worker.schemas.generate import VERSION
from worker.schemas.journal import journal_schema
from worker.schemas.lifecycle import lifecycle_schema
from worker.schemas.message import message_schema
from worker.schemas.pages import contract_page, reasons_page
from worker.schemas.reasons import catalogue
from worker.schemas.receipt import receipt_schema

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Published:
    """One document of the contract, for programs."""

    name: str
    file: str
    about: str
    """What it describes, in a few words."""
    make: Callable[[], dict[str, Any]]
    is_input: bool = False
    """Whether the worker reads what it describes; otherwise it writes it."""

    def text(self) -> str:
        """Return the file's content."""
        return json.dumps(self.make(), indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Page:
    """One page for people."""

    name: str
    file: str
    about: str
    text: Callable[[], str]


SCHEMAS: Final = (
    Published("message", "message.schema.json", "CIM message: what publishers send", message_schema, is_input=True),
    Published("event", "event.schema.json", "event: what subscribers of a conversation get", event_schema),
    Published("receipt", "receipt.schema.json", "receipt: what became of a message", receipt_schema),
    Published("journal", "journal.schema.json", "journal: outcomes of the last days", journal_schema),
    Published("dead-letter", "dead-letter.schema.json", "dead letter as the store keeps it", letter_schema),
    Published(
        "dead-letter-headers", "dead-letter-headers.schema.json", "AMQP headers of a dead letter", headers_schema
    ),
    Published(
        "lifecycle",
        "lifecycle.schema.json",
        "lifecycle event: what the platform tells of its conversations",
        lifecycle_schema,
        is_input=True,
    ),
)
"""Every JSON Schema, in the order people read them."""

DOCUMENTS: Final[tuple[Published | Page, ...]] = (
    *SCHEMAS,
    Published("asyncapi", "asyncapi.json", "AsyncAPI 3: queues, exchanges, bindings, headers, properties", asyncapi),
    Page("asyncapi-page", "asyncapi.html", "the same and the schemas as a page", contract_page),
    Published("reasons", "reasons.json", "reason codes: meaning, example, what to do", catalogue),
    Page("reasons-page", "reasons.html", "the same as a page", reasons_page),
)
"""Everything that `cim-worker schemas` writes."""

__all__ = ["DOCUMENTS", "SCHEMAS", "VERSION", "Page", "Published"]
