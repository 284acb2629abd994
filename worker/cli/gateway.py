"""`cim-worker gateway`: the HTTP door to the ingress queue."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from worker.cli.output import add_command
from worker.cli.services import command_settings


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "gateway",
        gateway,
        "cim-worker gateway                                  on 127.0.0.1:8080, for this machine alone",
        "CIM_GATEWAY_TOKENS_FILE=tokens cim-worker gateway --host 0.0.0.0",
        "curl -H 'Content-Type: application/json' -d @form.json http://127.0.0.1:8080/conversation-manager/activities",
        environment=("CIM_RABBITMQ_URL", "CIM_GATEWAY_TOKENS_FILE", "CIM_GATEWAY_JWKS", "CIM_GATEWAY_CORS_ORIGINS"),
    )


def gateway(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: CIM_GATEWAY_HOST, else 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; default: CIM_GATEWAY_PORT, else 8080.", min=0, max=65535)
    ] = None,
) -> None:
    """Take activities over HTTP, as the platform's own API does, and put them on the ingress queue.

    A message is validated as the workers do, published, and answered 200 once the broker has confirmed it. Beyond
    this machine every client needs a bearer token. deploy/gateway.md is its page.
    """
    from worker.process.gateway import run_gateway
    from worker.process.signals import hear_stop_signals

    signals = hear_stop_signals()
    given: dict[str, Any] = {"gateway_host": host, "gateway_port": port}
    settings = command_settings(**{name: value for name, value in given.items() if value is not None})
    run_gateway(settings, signals)
