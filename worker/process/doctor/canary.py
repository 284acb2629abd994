"""A canary: one harmless message through a retry tier, ingress, a worker, the dead letters and the recorder.

It has no anchor, so it goes to no conversation and is stored nowhere; it dies as `missing_anchor`, under the sender
`cim-doctor`, and its letter is deleted at the end.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from typing import TYPE_CHECKING, Final

from worker import contract
from worker.mongo.dead_letters import COLLECTION
from worker.ports import Confirmation, Outgoing
from worker.process.doctor.finding import Area, Finding
from worker.rabbit.publisher import Publisher
from worker.settings import delay_seconds

if TYPE_CHECKING:
    from worker.mongo.client import Store
    from worker.rabbit.connection import Connection
    from worker.settings import Settings

SENDER: Final = "cim-doctor"
_CANARY: Final = Area("canary")
_SLACK_SECONDS: Final = 10.0
_TAKEN_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.3


async def send_canary(connection: Connection, store: Store, settings: Settings) -> list[Finding]:
    """Send it, wait for its letter, and delete that. Raises `BrokerError`, `StoreUnavailable` or `OperatorFault`."""
    message_id, delay = f"canary-{secrets.token_hex(8)}", settings.retry_delays[0]
    tier, started = contract.retry_queue(delay), time.monotonic()
    publisher = await Publisher.open(connection)
    try:
        async with asyncio.timeout(_TAKEN_SECONDS):
            outgoing = Outgoing("", tier, message_id, _body(message_id), app_id=SENDER)
            (confirmation,) = await publisher.publish([outgoing])
    except TimeoutError:
        text = connection.blocked_reason or "no confirm"
        return [_CANARY.problem(f"into {tier}", f"the broker takes no publish: {text}", "see the finding `alarms`")]
    if confirmation is not Confirmation.CONFIRMED:
        text, fix = f"the broker says {confirmation.value}", "run `cim-worker topology apply`"
        return [_CANARY.problem(f"into {tier}", text, fix)]
    wait = delay_seconds(delay) + settings.record_interval_ms / 1000 + _SLACK_SECONDS
    if not await _letter_is_there(store, message_id, started + wait):
        text = f"sent into {tier}; no letter within {wait:.0f} s"
        fix = "is a pool running that records dead letters? `cim-worker status` shows where messages wait"
        return [_CANARY.problem("retry tier and dead letters", text, fix)]
    await _delete(store, message_id)
    text = f"{tier}, ingress, a worker, dead letters, recorder: {time.monotonic() - started:.1f} s"
    return [_CANARY.ok("retry tier and dead letters", text)]


def _body(message_id: str) -> bytes:
    header = {"sender": {"id": SENDER, "type": "APP", "senderName": "cim-worker doctor --canary"}}
    return json.dumps({"id": message_id, "header": header, "body": {"type": "PLAIN"}}).encode()


async def _letter_is_there(store: Store, message_id: str, deadline: float) -> bool:
    while time.monotonic() < deadline:
        async with store.operation():
            if await store.collection(COLLECTION).find_one({"messageId": message_id, "senderId": SENDER}):
                return True
        await asyncio.sleep(_LOOK_SECONDS)
    return False


async def _delete(store: Store, message_id: str) -> None:
    async with store.operation(writes=True):
        await store.collection(COLLECTION).delete_many({"messageId": message_id, "senderId": SENDER})
