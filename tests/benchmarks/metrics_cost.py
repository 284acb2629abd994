"""What the metrics cost: a worker with all of them, scraped every second, and one with none, in turn.

    nice -n -10 python -m tests.benchmarks.metrics_cost --rounds 7

Ratios are taken within a round, whose two runs follow each other; the medians count. On shared cores the processor time
says more than the rate.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import urllib.request
from statistics import median
from typing import TYPE_CHECKING, Final

from tests.benchmarks import stores
from tests.benchmarks.contenders import Command, ours
from tests.benchmarks.stage import Stage
from tests.benchmarks.throughput import run
from tests.services.processes import free_ports
from tests.services.services import private_broker

if TYPE_CHECKING:
    from collections.abc import Iterator

_RATES: Final = {"live": 9000, "stored": 9000}
_SCRAPE_SECONDS: Final = 1.0


def main() -> None:
    """Run the rounds, and print each pair and the medians."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.metrics_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--workload", choices=tuple(_RATES), default="live")
    options = parser.parse_args()
    port = str(free_ports(1)[0])
    counted = ours(1, _RATES, CIM_HTTP_PORT=port)
    module = ("-m", "tests.benchmarks.uncounted_worker", "run", "--processes", "1")
    uncounted = Command("without metrics", module, _RATES, {"CIM_HTTP_PORT": port})
    processor, rate = [], []
    with (
        private_broker() as broker,
        stores.running(stores.fastest()) as store,
        Stage(broker, store.uri, conversations=100) as stage,
        _scraped(int(port)),
    ):
        for number in range(options.rounds):
            pair = (counted, uncounted) if number % 2 else (uncounted, counted)
            found = {one.name: run(stage, one, options.workload, options.messages) for one in pair}
            with_them, without = found[counted.name], found[uncounted.name]
            processor.append(with_them.cpu_us / without.cpu_us)
            rate.append(with_them.rate / without.rate)
            print(
                f"with {with_them.cpu_us:5.1f} µs {with_them.rate:8,.0f}/s   "
                f"without {without.cpu_us:5.1f} µs {without.rate:8,.0f}/s   "
                f"processor time {processor[-1]:.3f}  rate {rate[-1]:.3f}",
                flush=True,
            )
    print(f"medians of {options.rounds}: processor time {median(processor):.3f}, rate {median(rate):.3f}")


@contextlib.contextmanager
def _scraped(port: int) -> Iterator[None]:
    """Ask for the metrics every second, whoever is there."""
    ended = threading.Event()

    url = f"http://127.0.0.1:{port}/metrics"

    def scrape() -> None:
        while not ended.wait(_SCRAPE_SECONDS):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
                answer.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
