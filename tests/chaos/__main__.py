"""`python -m tests.chaos`: see README.md beside this file."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.fault import FAULTS, OF_NODES, OF_ORDER, PENDING
from tests.chaos.run import Plan, Progress, Report, run
from tests.contract.store.servers import SERVERS

if TYPE_CHECKING:
    from tests.chaos.world import World


def main() -> int:
    """Return the exit code: 0 when every invariant held."""
    options = _arguments()
    logging.getLogger("pika").setLevel(
        logging.CRITICAL
    )  # it reports every broken connection, and breaking them is our job
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is ended and removed
    if options.mutants is not None:
        from tests.chaos.mutants import hunt  # noqa: PLC0415 - not needed for a run

        return hunt(options.mutants, keep=options.keep)
    plan = Plan(
        seed=options.seed,
        minutes=options.minutes,
        messages=options.messages,
        every=options.every,
        at_once=options.at_once,
        feel=None if options.feel is None else tuple(options.feel.split(",")) if options.feel else (),
        only=tuple(options.only.split(",")) if options.only else (),
        keep=options.keep,
        cluster=options.cluster,
        partitions=options.partitions if options.order else 0,
        quiet_timeout=options.quiet,
        broker_root=options.rabbitmq_root,
        store=options.store,
    )
    report = asyncio.run(run(plan, _say, ProgressLine()))
    print_report(report)
    if options.json:
        options.json.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    return 1 if report.violations else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break everything, then count.")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="decides traffic and faults (default: the time)"
    )
    parser.add_argument("--minutes", type=float, default=5, help="how long to break things (default: %(default)s)")
    parser.add_argument("--messages", type=int, default=50_000, help="how many messages (default: %(default)s)")
    parser.add_argument("--every", type=float, default=5, help="seconds between two faults (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=2, help="most faults at the same time (default: %(default)s)")
    parser.add_argument("--cluster", action="store_true", help="three nodes, which are killed, frozen and cut off, too")
    parser.add_argument("--order", action="store_true", help="a partitioned ingress, and the order of each key checked")
    parser.add_argument("--partitions", type=int, default=3, help="how many, with --order (default: %(default)s)")
    every = FAULTS | PENDING | OF_NODES | OF_ORDER
    parser.add_argument("--only", help=f"comma separated faults out of: {', '.join(every)}")
    parser.add_argument("--feel", help="comma separated faults during which live messages are timed; '' for none")
    parser.add_argument(
        "--quiet", type=float, default=200, help="seconds to wait for quiet at the end (default: %(default)s)"
    )
    parser.add_argument("--rabbitmq-root", type=Path, help="root file system of another RabbitMQ (needs root rights)")
    parser.add_argument("--store", choices=sorted(SERVERS), default="embedded", help="store to break")
    parser.add_argument("--json", type=Path, help="file to write the report to")
    parser.add_argument("--keep", type=Path, help="folder to copy the logs of worker and broker to")
    parser.add_argument(
        "--mutants",
        nargs="*",
        metavar="NAME",
        help="check the harness itself: run it on deliberate bugs (default: all)",
    )
    return parser.parse_args()


def _say(text: str) -> None:
    end = "" if sys.stdout.isatty() else "\n"
    print(f"\r\x1b[K{text}\n" if not end else text, end=end, flush=True)


class ProgressLine:
    """One line, rewritten in place on a terminal; elsewhere a line every ten seconds."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._shown = 0.0

    def __call__(self, world: World, state: Progress) -> None:
        """Show where the run is."""
        now = time.monotonic()
        terminal = sys.stdout.isatty()
        if not terminal and now - self._shown < 10:
            return
        self._shown = now
        active = ", ".join(state.active)
        line = (
            f"{now - self._started:6.0f} s  {state.phase}: {len(world.ledger)} messages, "
            f"{world.subscriber.received} events at subscribers, ingress {world.publisher.ingress_depth}, "
            f"unconfirmed {world.publisher.unfinished} {world.publisher.last_error[:80]}, "
            f"{sum(state.faults.values())} faults{f' ({active})' if active else ''}"
        )
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", flush=True)


def print_report(report: Report) -> None:
    """Print the final table, and what is wrong."""
    print()
    rows: list[tuple[str, object]] = [
        ("seed", report.seed),
        (
            "messages",
            f"{report.messages} ({report.published} publishes over {report.publisher_connections} connections)",
        ),
        ("time", f"{report.seconds:.0f} s, quiet after {report.seconds_until_quiet:.0f} s"),
        ("faults", f"{sum(report.faults.values())} of {len(report.faults)} kinds"),
        (
            "at subscribers",
            f"{report.at_subscribers}, {report.duplicates} twice (in flight at most {report.duplicates_bound})",
        ),
        ("order given up", f"{report.given_up} times; {report.overtaken} messages were overtaken then"),
        ("in the store", report.in_store),
        ("dead", f"{sum(report.dead.values())}, {report.double_letters} twice; {_counts(report.dead)}"),
        ("parked", report.parked),
        ("gone with queues", report.gone_with_queues),
        ("expected", _counts(report.kinds)),
        (
            "broker sessions",
            f"{report.sessions}; pools {report.pool_starts}; processes ended cleanly {report.clean_ends}",
        ),
        ("they counted", _counts(report.counted)),
        ("outages seen", f"{_counts(report.outages)}; {report.flaps} flapped"),
        ("memory", f"{report.peak_mib:.0f} MiB at most"),
    ]
    for name, value in rows:
        print(f"{name:>16}  {value}")
    if report.latency_ms:
        print(f"{'live latency':>16}  p99 and worst in ms; p99 at most {report.latency_bound_ms:g}")
    for fault, (p99, worst) in report.latency_ms.items():
        print(f"{p99:>16}  {worst:>9}  {fault}")
    for fault, count in report.faults.items():
        print(f"{count:>16}  {fault}")
    for invariant, count in report.violations.items():
        print(f"\nVIOLATED: {invariant}: {count}")
        for example in report.examples[invariant]:
            print(f"  {example}")
    print("\nevery invariant held" if not report.violations else "\nFAILED")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]) if count)


if __name__ == "__main__":
    sys.exit(main())
