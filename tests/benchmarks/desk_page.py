"""How soon the desk's page answers while it replays many letters: `python -m tests.benchmarks.desk_page`.

`[--letters 100000] [--store embedded] [--seconds 60]`: the page of a real `cim-worker desk` works out the plan of all
letters, then replays them; meanwhile somebody looks at causes, letters, jobs and the head of the page, one after the
other. The worker is not running: what it costs the store beside this is measured by `make bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.benchmarks import desk, stores
from tests.services.services import private_broker
from tests.support.command import COMMAND
from tests.support.desk_page import desk_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.desk_page import Answer, Browser

_PATHS = {"causes": "/", "one cause": f"/causes?name={3:012x}", "letters": "/letters", "jobs": "/jobs", "head": "/live"}
_PAUSE_SECONDS = 0.1
_ALONE = 20


def run(number: int, store_name: str, seconds: float) -> None:
    """Start store, broker and page, fill, and look at the page."""
    with (
        stores.running(store_name) as server,
        private_broker(say=lambda _line: None) as broker,
        tempfile.TemporaryDirectory() as folder,
    ):
        url = broker.create_vhost("desk-page")
        asyncio.run(desk.filled(server.uri, number))
        variables = {"CIM_RABBITMQ_URL": url, "CIM_MONGODB_URI": server.uri, "CIM_MONGODB_DATABASE": "desk"}
        environment = {**os.environ, **variables}
        subprocess.run([COMMAND, "topology", "apply"], env=environment, check=True, stdout=subprocess.DEVNULL)
        with desk_page(Path(folder, "desk.log"), **variables) as browser:
            _look(browser, number, seconds)


def _look(browser: Browser, number: int, seconds: float) -> None:
    times = iter(range(_ALONE))
    _watch("alone", browser, lambda: next(times, None) is None)
    asked = _answered("plan", lambda: browser.send("/replay", _all_of(browser.get("/"), reason="how fast")))
    planned = _followed("while it plans", browser, asked, 10 * seconds)
    assert f"{number // 1000} 000 would not die" in planned.words.replace("\N{NO-BREAK SPACE}", " "), planned.words
    running = _answered("replay", lambda: browser.send("/replay", {**_all_of(planned), "ramp": "", "rate": ""}))
    _followed("while it replays", browser, running, seconds)
    _answered("stop", lambda: browser.send(f"{running.path}/stop", running.form(f"{running.path}/stop")))
    print(browser.ended(running).words[:300])


def _all_of(page: Answer, **more: str) -> dict[str, str]:
    return {**page.form("/replay"), "number": "all", **more}


def _answered(what: str, ask: Callable[[], Answer]) -> Answer:
    began = time.monotonic()
    answer = ask()
    assert answer.path.startswith("/tasks/"), (answer.status, answer.words[:300])
    print(f"{what}: answered after {time.monotonic() - began:.2f} s", flush=True)
    return answer


def _followed(what: str, browser: Browser, task: Answer, seconds: float) -> Answer:
    """Look at pages while *task* runs, at most so many *seconds*; return its page then."""
    began = time.monotonic()
    shown = task

    def is_over() -> bool:
        nonlocal shown
        shown = browser.get(task.path + "?part=1")
        return "hx-trigger" not in shown.text or time.monotonic() - began > seconds

    _watch(what, browser, is_over)
    print(f"  after {time.monotonic() - began:.0f} s: {shown.words[:160]}", flush=True)
    return shown


def _watch(what: str, browser: Browser, is_over: Callable[[], bool]) -> None:
    """Look at each page in turn until it is over, and say how long the answers took."""
    took = defaultdict[str, list[float]](list)
    while not is_over():
        for name, path in _PATHS.items():
            began = time.monotonic()
            answer = browser.get(path)
            took[name].append(time.monotonic() - began)
            assert answer.status == 200, (path, answer.status, answer.words[:300])
        time.sleep(_PAUSE_SECONDS)
    print(f"{what}, load {psutil.getloadavg()[0]:.1f}:")
    for name, times in took.items():
        p99 = sorted(times)[int(len(times) * 0.99)]
        print(f"  {name:<10} p50 {statistics.median(times):.3f} s, p99 {p99:.3f}, max {max(times):.3f} of {len(times)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--letters", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60, help="how long it is looked at beside the replay")
    parser.add_argument("--store", choices=stores.NAMES, default="embedded", help="memory: mongo-java-server in memory")
    arguments = parser.parse_args()
    run(arguments.letters, arguments.store, arguments.seconds)


if __name__ == "__main__":
    main()
