"""What the gateway says of a message that was never sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.deliveries import FakeClock, RecordingReporter
from worker.flow.outage import Outage
from worker.flow.reconnecting import Reconnecting
from worker.ports import Outgoing
from worker.settings import load_settings
from worker.web.gateway.ingress import Ingress, Unavailable


class Open:
    """A connection that nothing blocks."""

    blocked_reason = None


def made() -> Any:
    """Return an ingress that was never connected."""
    outage = Outage("broker", address="a", reporter=RecordingReporter(), clock=FakeClock())
    return Ingress(load_settings(), outage=outage, reconnecting=Reconnecting(random=lambda: 1.0))


async def test_a_message_whose_connection_ends_before_it_is_sent_is_known_not_to_be_sent() -> None:
    ingress = made()
    ingress._publisher, ingress._connection = object(), Open()
    publishing = asyncio.create_task(ingress.publish(Outgoing("e", "k", "id", b"{}")))
    await asyncio.sleep(0)
    ingress._publisher = ingress._connection = None
    with pytest.raises(Unavailable, match="cannot be reached"):
        await publishing
    assert ingress.in_flight == 0
