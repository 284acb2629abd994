"""`cim-worker` whose processes die of a body that contains `POISON`, as of a message that crashes the interpreter.

A script: `python tests/support/poisonable.py run …`, with the text in the environment variable `POISON`. With
`SILENT_SECONDS` in the environment, a process that says nothing for so long is replaced; with `LOOK_SECONDS`, queues
are looked at so often.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from worker.cli import main
from worker.process import member, observing, supervisor
from worker.rabbit.consumer import Consumer

if TYPE_CHECKING:
    from worker.rabbit.consumer import Delivery

_QUEUES = {"cim.ingress", "cim.ingress.waiting"}
"""Where messages are read; the same body as a dead letter is only moved."""
_run_child = member.run_child


def poisonable_child(*arguments: Any) -> None:
    """Do what the supervisor's child does, in a spawned process of its own."""
    die_of_poison(os.environ["POISON"].encode())
    observing._QUEUES_SECONDS = float(os.environ.get("LOOK_SECONDS", observing._QUEUES_SECONDS))  # type: ignore[misc]
    _run_child(*arguments)


def die_of_poison(poison: bytes) -> None:
    """Make this process die by SIGKILL as soon as it takes a message whose body contains *poison*."""
    take = Consumer.take

    def poisonable(self: Consumer, max_count: int, max_bytes: int) -> list[Delivery]:
        taken = take(self, max_count, max_bytes)
        if any(poison in delivery.body and delivery.queue in _QUEUES for delivery in taken):
            os.kill(os.getpid(), signal.SIGKILL)
        return taken

    Consumer.take = poisonable  # type: ignore[method-assign]


if __name__ == "__main__":
    member.run_child = poisonable_child  # type: ignore[assignment]
    supervisor._SILENT_SECONDS = float(os.environ.get("SILENT_SECONDS", "30"))  # type: ignore[misc]
    main()
