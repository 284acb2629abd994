"""Where the demo plays: a broker with a virtual host, a store with a database, both its own and gone afterwards."""

from __future__ import annotations

import secrets
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.services import command_settings
from worker.ops.logging import configure_logging
from worker.sandbox.broker import BrokerStartError
from worker.sandbox.containers import ContainerStartError
from worker.sandbox.databases import dropped_afterwards
from worker.sandbox.debian import InstallError
from worker.sandbox.management import ManagementError
from worker.sandbox.services import found_broker, found_store
from worker.sandbox.store import StoreStartError
from worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.sandbox.services import Broker

_BROKER_FAILURES = (BrokerStartError, InstallError, ManagementError)
_STORE_FAILURES = (StoreStartError, ImportError)


@dataclass(frozen=True, slots=True)
class Stage:
    """What the demo needs to know of its surroundings."""

    settings: Settings
    """Settings that lead to the demo's own virtual host and database."""
    worker_log: Path
    """Where the workers' log lines go."""

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that say the same to worker processes."""
        return {
            "CIM_RABBITMQ_URL": self.settings.rabbitmq_url.get_secret_value(),
            "CIM_MONGODB_URI": self.settings.mongodb_uri.get_secret_value(),
            "CIM_MONGODB_DATABASE": self.settings.mongodb_database,
        }


@contextmanager
def set_stage(*, say: Callable[[str], object]) -> Iterator[Stage]:
    """Find or start broker and store and yield the stage. Raises `CommandError` and `ConfigurationError`."""
    settings = command_settings()
    configure_logging(settings.log_format, "warning")
    given = settings.model_fields_set
    broker_url = settings.rabbitmq_url.get_secret_value() if "rabbitmq_url" in given else None
    store_uri = settings.mongodb_uri.get_secret_value() if "mongodb_uri" in given else None
    name = f"cim-demo-{secrets.token_hex(4)}"
    with (
        _failures_told(),
        tempfile.TemporaryDirectory(prefix="cim-demo-") as folder,
        found_broker(broker_url, say=say) as broker,
        found_store(store_uri, say=say) as store,
        _virtual_host(broker, name, say) as vhost_url,
        dropped_afterwards(store.uri, name) as database,
    ):
        own = load_settings(rabbitmq_url=vhost_url, mongodb_uri=store.uri, mongodb_database=database)
        yield Stage(own, Path(folder) / "workers.log")


@contextmanager
def _virtual_host(broker: Broker, name: str, say: Callable[[str], object]) -> Iterator[str]:
    try:
        url = broker.create_vhost(name)
    except (OSError, ManagementError):
        say("no virtual host can be made through its management API: playing in the one that was given")
        yield broker.url
        return
    try:
        yield url
    finally:
        broker.delete_vhost(name)


@contextmanager
def _failures_told() -> Iterator[None]:
    try:
        yield
    except _BROKER_FAILURES as error:
        raise CommandError(ExitCode.BROKER_UNREACHABLE, f"no broker for the demo: {error}") from error
    except _STORE_FAILURES as error:
        text = f"no store for the demo: {error}; set CIM_MONGODB_URI, or pip install 'cim-worker[sandbox]'"
        raise CommandError(ExitCode.STORE_UNREACHABLE, text) from error
    except ContainerStartError as error:
        raise CommandError(ExitCode.UNEXPECTED, f"Docker is there, but not well: {error}") from error
