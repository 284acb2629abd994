"""What `make demo` runs: finds or starts a broker and a store, then runs `cim-worker demo` on them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys

from tests.services.broker import BrokerStartError
from tests.services.containers import ContainerStartError
from tests.services.debian import InstallError
from tests.services.management import ManagementError
from tests.services.services import found_broker, found_store
from tests.services.store import StoreStartError

_CANNOT_START = (BrokerStartError, ContainerStartError, InstallError, ManagementError, StoreStartError)


def main(arguments: list[str]) -> int:
    """Run the demo with *arguments* and return its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started here is ended
    given = os.environ
    try:
        with (
            found_broker(
                given.get("CIM_RABBITMQ_URL"), management_url=given.get("CIM_RABBITMQ_MANAGEMENT_URL"), say=_say
            ) as broker,
            found_store(given.get("CIM_MONGODB_URI"), say=_say) as store,
        ):
            name = f"cim-demo-{secrets.token_hex(4)}"
            url = broker.create_vhost(name)
            try:
                return _demo(arguments, {**given, "CIM_RABBITMQ_URL": url, "CIM_MONGODB_URI": store.uri})
            finally:
                broker.delete_vhost(name)
    except _CANNOT_START as error:
        _say(f"the demo cannot start: {error}")
        return 1


def _demo(arguments: list[str], environment: dict[str, str]) -> int:
    """Run the command in a session of its own, so that Ctrl-C reaches it once, from here, and it can clean up."""
    command = [sys.executable, "-m", "worker", "demo", *arguments]
    with subprocess.Popen(command, env=environment, start_new_session=True) as demo:
        try:
            return demo.wait()
        except KeyboardInterrupt:
            demo.terminate()
            return demo.wait()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
