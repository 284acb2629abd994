"""The developer on call, as tests run the commands for dead letters."""

from __future__ import annotations

import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.support.command import COMMAND, cim_worker, environment, printed_json

if TYPE_CHECKING:
    from tests.support.worker_pool import World

REASON = ("--reason", "the limit was too small")


class OnCall:
    """Runs commands as somebody would who was called at night."""

    def __init__(self, world: World, **variables: str) -> None:
        self.world = world
        self.variables = {
            "CIM_RABBITMQ_URL": world.amqp_url,
            "CIM_MONGODB_URI": world.mongodb_uri,
            "CIM_MONGODB_DATABASE": world.database,
            **variables,
        }

    def run(self, *arguments: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = cim_worker("dead-letters", *arguments, stdin=stdin, **self.variables)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return printed_json(self.run(*arguments, "--json", code=code))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in the background."""
        return subprocess.Popen(
            [COMMAND, "dead-letters", *arguments],
            env=environment(**self.variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def statuses(self) -> dict[str, int]:
        """Return how many letters there are of each status, as the store says."""
        return dict(Counter(one["status"] for one in self.world.collection("dead_letters")))
