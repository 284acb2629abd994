"""Where the demo runs: the given virtual host, and a database of the demo's own that is dropped afterwards."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worker.cli.errors import CommandError
from worker.cli.exit_codes import ExitCode
from worker.cli.services import command_settings, open_store
from worker.mongo.stored_activities import drop_database
from worker.ops.logging import configure_logging
from worker.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HOW_TO_START = (
    "the demo needs a broker and a store: set CIM_RABBITMQ_URL and CIM_MONGODB_URI, "
    "or run `make demo` in a clone of the repository, which starts both"
)


@dataclass(frozen=True, slots=True)
class Environment:
    """What the demo needs to know of its surroundings."""

    settings: Settings
    """Settings with the given virtual host and the demo's own database."""
    folder: Path
    """The demo's own, readable for this user alone, removed at the end."""

    @property
    def worker_log(self) -> Path:
        """Where the workers' log lines go."""
        return self.folder / "workers.log"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that say the same to worker processes."""
        return {
            "CIM_RABBITMQ_URL": self.settings.rabbitmq_url.get_secret_value(),
            "CIM_MONGODB_URI": self.settings.mongodb_uri.get_secret_value(),
            "CIM_MONGODB_DATABASE": self.settings.mongodb_database,
        }

    def write_variables(self) -> Path:
        """Write a file for `. FILE` in another shell, with which `cim-worker` finds the demo; return its path."""
        file = self.folder / "variables"
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in self.variables.items()]
        programs = shlex.quote(str(Path(sys.executable).parent))
        file.write_text("".join([*lines, f'export PATH={programs}:"$PATH"\n']))
        return file


@contextmanager
def demo_environment(*, say: Callable[[str], object]) -> Iterator[Environment]:
    """Yield the environment; drop its database at the end. Raises `CommandError` and `ConfigurationError`."""
    settings = command_settings()
    configure_logging(settings.log_format, "warning")
    if not {"rabbitmq_url", "mongodb_uri"} <= settings.model_fields_set:
        raise CommandError(ExitCode.CONFIGURATION, _HOW_TO_START)
    database = f"cim-demo-{secrets.token_hex(4)}"
    own = load_settings(mongodb_database=database)
    say(f"using the given broker and store, and a database of the demo's own: {database}")
    with tempfile.TemporaryDirectory(prefix="cim-demo-") as folder:
        try:
            yield Environment(own, Path(folder))
        finally:
            asyncio.run(_drop(own))


async def _drop(settings: Settings) -> None:
    async with open_store(settings) as store:
        await drop_database(store)
