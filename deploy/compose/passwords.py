#!/usr/bin/env python3
"""Makes the passwords that deploy/compose.yaml needs, once: those that exist stay. Needs Python 3 and nothing else.

For each user a file with its password and, where a service connects with it, one with its address, in the folder
`secrets` beside this program: readable by the containers' user, and by nobody without the right to the folder.
"""

from __future__ import annotations

import secrets
from pathlib import Path

FOLDER = Path(__file__).with_name("secrets")
PASSWORDS = ("cim-publisher", "cim-platform", "crm")
AMQP = ("cim-topology", "cim-worker", "cim-gateway", "cim-desk")
MANAGEMENT = ("admin", "cim-monitoring")


def main() -> None:
    """Write what is missing."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    for user in PASSWORDS:
        _password(user)
    for user in AMQP:
        _write(f"{user}.url", f"amqp://{user}:{_password(user)}@rabbitmq:5672/cim")
    for user in MANAGEMENT:
        _write(f"{user}.url", f"http://{user}:{_password(user)}@rabbitmq:15672")
    _write("desk-tokens", f"operator {secrets.token_hex(24)}")
    _write("gateway-tokens", f"first-publisher {secrets.token_hex(24)}")
    print(f"passwords are in {FOLDER}: admin for Grafana and RabbitMQ, desk-tokens for the desk's page")


def _password(user: str) -> str:
    _write(user, secrets.token_hex(24))
    return (FOLDER / user).read_text().strip()


def _write(name: str, content: str) -> None:
    file = FOLDER / name
    if not file.exists():
        file.write_text(content + "\n")
        file.chmod(0o444)


if __name__ == "__main__":
    main()
