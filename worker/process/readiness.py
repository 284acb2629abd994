"""Whether one worker process can do its work, since when and why not: for readiness, its pool and its metrics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from worker.addresses import address
from worker.ops.checks import Check
from worker.ops.process import process_report
from worker.process.progress import SILENCE
from worker.process.reports import ProcessReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.flow.outage import Outage, Part
    from worker.ops.metrics import Report
    from worker.process.app import App
    from worker.rabbit.consumer import Consumer
    from worker.rabbit.partitions import PartitionConsumer

    AnyConsumer = Consumer | PartitionConsumer


class Readiness:
    """What a process says of itself."""

    def __init__(self, app: App, index: int) -> None:
        """Speak for process number *index*, which does not consume yet."""
        self._app = app
        self._index = index
        self.broker = app.broker_outage()
        self.publishing = self.broker.part("publish")
        """For a broker that blocks publishers."""
        self._connected = self.broker.part(""), self.broker.part(SILENCE)
        self._consumers: Sequence[AnyConsumer] = ()
        self._is_consuming = False
        self._started_at = self._connecting_since = app.clock.now_ms()

    def consuming(self, ingress: AnyConsumer, waiting_room: Consumer) -> None:
        """From now on these two take deliveries."""
        self._consumers = ingress, waiting_room
        self._is_consuming = True

    def left(self) -> None:
        """The broker session has ended; what its consumers hold is counted until the next one."""
        self._is_consuming = False
        self._connecting_since = self._app.clock.now_ms()

    def report(self) -> ProcessReport:
        """Return what the supervisor is told of this process: whether it makes progress, and its numbers."""
        pause = self._app.pause
        return ProcessReport(
            checks=self.checks(),
            pause=pause.state if pause.is_known else None,
            metrics={**self._app.metrics.report(), **self.window(), **process_report(str(self._index))},
        )

    def checks(self) -> list[Check]:
        """Return what readiness consists of, each with the reason why it is not fulfilled."""
        return [
            Check("broker", self._broker_problem()),
            Check("publishing", self._since("broker blocks publishers", self.publishing)),
            Check("store", self._store_problem()),
            Check("paused", self._paused()),
        ]

    def facts(self) -> dict[str, Any]:
        """Return what the pool's document says of this process."""
        metrics = self._app.metrics
        reasons = [check.reason for check in self.checks() if check.reason is not None]
        outcomes = {name: count for name, count in metrics.outcomes().items() if count}
        return {"ready": not reasons, "reasons": reasons, "received": metrics.received, "outcomes": outcomes}

    def window(self) -> Report:
        """Return what is held of the ingress queue and the waiting room, and for how long."""
        now = self._app.clock.monotonic()
        ages = [now - at for one in self._consumers if (at := one.oldest_received_at) is not None]
        return {
            "cim_paused": [[[], int(self._app.pause.is_closed)]],
            "cim_prefetch": [[[], sum(one.prefetch for one in self._consumers)]],
            "cim_unacknowledged": [[[], sum(one.unsettled for one in self._consumers)]],
            "cim_oldest_unacknowledged_seconds": [[[], max(ages, default=0.0)]],
        }

    def _broker_problem(self) -> str | None:
        """Say why nothing is consumed; an open socket alone is not readiness."""
        lost = next((part for part in self._connected if part.failure is not None), self._connected[0])
        problem = self._since("broker unavailable", lost)
        if problem is not None or (self._is_consuming and self._takes_what_it_may(self._consumers[0])):
            return problem
        if not self._is_consuming:
            at = address(self._app.settings.rabbitmq_url)
            return f"connecting to the broker at {at} since {_shown(self._connecting_since)}"
        return "the broker has cancelled the consumer; connecting again"

    def _takes_what_it_may(self, consumer: AnyConsumer) -> bool:
        return consumer.is_consuming or (self._app.pause.is_closed and consumer.is_open)

    def _paused(self) -> str | None:
        state = self._app.pause.state
        return f"paused by {state.by} since {_shown(state.at)}: {state.reason}" if state.is_paused else None

    def _store_problem(self) -> str | None:
        problem = self._since("store unavailable", self._app.store_outage)
        if problem is not None or "store" in self._app.metrics.dependency_up:
            return problem
        return f"store unavailable since {_shown(self._started_at)}: {self._app.store.address} has not answered yet"

    def _since(self, what: str, outage: Outage | Part) -> str | None:
        """Return *what*, since when and why, while *outage* lasts."""
        if outage.failure is None:
            return None
        began = self._app.clock.now_ms() - int(outage.seconds * 1000)
        return f"{what} since {_shown(began)}: {outage.reason}"


def _shown(at: int) -> str:
    """Return epoch milliseconds as people read them."""
    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
