"""The rules by promtool, and the dashboard by a real Prometheus that scrapes a real pool with much to see."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pika

from tests.deployment.tools import CheckFailed
from tests.documentation import ROOT
from tests.services.processes import KeptProcess, free_ports
from tests.services.services import private_broker
from tests.services.store import embedded_store
from tests.support.eventually import eventually
from tests.support.gateway import gateway
from tests.support.steady_load import SteadyLoad
from tests.support.worker_pool import World

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.deployment.tools import Tools

FOLDER = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "cim-worker.json"
_SECONDS = 120
_TWICE = b'{"id": "twice", "header": {"sender": {"id": "a", "type": "APP"}, "customer": {"_id": "u"}}, "body": {"type": "PLAIN", "markdownText": "x"}}'  # noqa: E501
_VARIABLES = {"$__rate_interval": "10s", "$job": ".*", "$instance": ".*"}


def rules(tools: Tools) -> str:
    """Check rules and configuration, and run the rules' own tests."""
    promtool = tools.from_apt("promtool", "prometheus")
    tools.run(promtool, "check", "config", FOLDER / "prometheus.yml")
    tools.run(promtool, "test", "rules", FOLDER / "rules.test.yml", cwd=FOLDER)
    count = len(re.findall(r"- alert:", (FOLDER / "rules.yml").read_text()))
    return f"{count} alerts fire on their own symptom, and none on a normal day"


def expressions() -> dict[str, str]:
    """Return the expressions of the dashboard's panels, as Grafana would ask them, by panel and legend."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"]
            for name, value in _VARIABLES.items():
                text = text.replace(name, value)
            found[f"{panel['title']}: {target['legendFormat']}"] = text
    return found


def dashboard(tools: Tools) -> str:
    """Ask Prometheus every expression of the dashboard, and every rule, and demand an answer."""
    tools.from_apt("prometheus", "prometheus")
    (operators,) = free_ports(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        _pool(Path(folder)) as (world, port),
        gateway(world.amqp_url, Path(folder), variables={"CIM_HTTP_PORT": str(operators)}) as door,
        _prometheus(Path(folder), {"cim-worker": port, "cim-gateway": operators}) as ask,
        SteadyLoad(world.amqp_url, "c-1") as load,
    ):
        eventually(lambda: load.count > 50, "some load")
        _something_of_everything(world)
        if door.post(json.loads(_TWICE)).status != HTTPStatus.OK:
            raise CheckFailed("the gateway does not take a message")
        empty = dict(expressions())
        deadline = time.monotonic() + _SECONDS
        while empty and time.monotonic() < deadline:
            empty = {name: text for name, text in empty.items() if not ask(text)}
            time.sleep(1)
        if empty:
            raise CheckFailed("no answer to " + "; ".join(f"{name} ({text})" for name, text in empty.items()))
        firing = sorted({one["metric"]["alertname"] for one in ask('ALERTS{alertstate="firing"}')})
    return f"{len(expressions())} expressions are answered; alerts meanwhile: {', '.join(firing) or 'none'}"


@contextlib.contextmanager
def _pool(folder: Path) -> Iterator[tuple[World, int]]:
    """Run two worker processes on a broker and a store of their own."""
    with private_broker(say=lambda _line: None) as broker:
        store = embedded_store(folder)
        store.start()
        try:
            world = World(broker.create_vhost("seen"), store.uri, "seen", folder)
            world.apply_topology()
            settings = {"CIM_RABBITMQ_MANAGEMENT_URL": broker.management.url, "CIM_RECORD_DEAD_LETTERS": "true"}
            with world.pool("--processes", "2", **settings) as pool:
                pool.wait_for("consuming", 2)
                yield world, pool.http_port
        finally:
            store.stop()


def _something_of_everything(world: World) -> None:
    """Open a conversation with a listener, send a message twice, and one from a publisher that wants a receipt."""
    world.open("c-1")
    world.publish(_TWICE, _TWICE)
    with pika.BlockingConnection(pika.URLParameters(world.amqp_url)) as connection:
        channel = connection.channel()
        channel.queue_declare("cim.receipts.check")
        wanted = pika.BasicProperties(reply_to="cim.receipts.check", headers={"cim-receipts": "all"})
        channel.basic_publish("cim.ingress", "u", _TWICE, wanted)


@contextlib.contextmanager
def _prometheus(folder: Path, jobs: Mapping[str, int]) -> Iterator[Any]:
    """Run Prometheus on the ports of *jobs*, and yield a function that asks it."""
    shutil.copy(FOLDER / "rules.yml", folder)
    own = free_ports(1)[0]
    scraped = [
        f"  - {{job_name: {job}, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n" for job, port in jobs.items()
    ]
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yml]\nscrape_configs:\n"
        + "".join(scraped)
    )
    options = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{own}")
    command = ["sh", "-c", 'cd "$0" && exec prometheus "$@"', str(folder), *options]
    process = KeptProcess(command, environment=dict(os.environ), log=folder / "prometheus.log")

    def ask(expression: str) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{own}/api/v1/query?{query}", timeout=10) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return found
        except urllib.error.HTTPError as error:
            raise CheckFailed(f"{expression}: {error.read().decode()}") from error
        except OSError:
            return []

    try:
        yield ask
    finally:
        process.terminate(20)
