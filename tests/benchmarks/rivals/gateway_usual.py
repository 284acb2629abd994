"""The endpoint as it is usually written: Starlette, aio-pika, one confirm per request; run by uvicorn as it comes."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import aio_pika
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from worker import contract
from worker.cim import Rejected, parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aio_pika.abc import AbstractExchange
    from starlette.requests import Request
    from starlette.responses import Response

_OPEN: dict[str, AbstractExchange] = {}


@contextlib.asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    connection = await aio_pika.connect_robust(os.environ["CIM_RABBITMQ_URL"])
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    _OPEN["ingress"] = await channel.get_exchange(contract.INGRESS, ensure=False)
    yield
    await connection.close()


async def _activities(request: Request) -> Response:
    body = await request.body()
    message = parse(body, received_at=0)
    if isinstance(message, Rejected):
        return JSONResponse({"message": message.first.expected}, status_code=400)
    outgoing = aio_pika.Message(body, message_id=message.id, content_type="application/json", delivery_mode=2)
    await _OPEN["ingress"].publish(outgoing, message.conversation_id or "", mandatory=True)
    return JSONResponse({"id": message.id, "eventId": message.event_id, "status": "accepted"})


async def _ready(_: Request) -> Response:
    return JSONResponse({"ready": True, "reasons": []})


APP = Starlette(
    routes=[
        Route("/conversation-manager/activities", _activities, methods=["POST"]),
        Route("/livez", _ready),
        Route("/readyz", _ready),
    ],
    lifespan=_lifespan,
)

if __name__ == "__main__":
    uvicorn.run(APP, port=int(sys.argv[1]), access_log=False, log_level="warning")
