"""What is under deploy/ fits the worker: names, ports, times and links. `make deploy-check` asks the real tools."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import math
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.documentation import ROOT
from tests.services.cluster import FOR_OLDER_ONES
from worker.ops.metric_catalogue import GATEWAY_METRICS, METRICS
from worker.outcome import Outcome
from worker.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "cim-worker"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"] if "alert" in rule]
RECORDED = {rule["record"] for group in RULES for rule in group["rules"] if "record" in rule}
RUNBOOK = (DEPLOY / "runbook.md").read_text()
ENTRIES = dict(re.findall(r"^## (\S+)\n((?:(?!## ).*\n)*)", RUNBOOK, re.MULTILINE))
PANELS = json.loads((DEPLOY / "grafana" / "cim-worker.json").read_text())["panels"]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
FAMILIES = {row.name: row for row in (*METRICS, *GATEWAY_METRICS)}
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
UNITS = sorted((DEPLOY / "systemd").glob("cim-*"))
PLAIN_YAML = [
    file
    for ending in ("*.yaml", "*.yml")
    for file in sorted(DEPLOY.rglob(ending))
    if "templates" not in file.parts and "secrets" not in file.parts
]


def expressions() -> list[str]:
    """Return every expression of rules and dashboard."""
    of_panels = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
    return [rule["expr"] for group in RULES for rule in group["rules"]] + of_panels


def expressions_of_runbook() -> list[str]:
    """Return what stands as code in the runbook and names a metric."""
    return [code for code in re.findall(r"`([^`\n]+)`", RUNBOOK) if re.search(r"\bcim_", code)]


def outcomes_named(expression: str) -> set[str]:
    """Return the values that *expression* compares the label `outcome` with; a pattern is a list of them."""
    compared = re.findall(r'\boutcome(?:=~|!=|!~|=)"([^"]*)"', expression)
    return {value for values in compared for value in values.split("|")}


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "helm" / "manifests" / name).read_text()))


def kind(name: str, file: str = "cim-worker.yaml") -> dict[str, Any]:
    return next(one for one in manifests(file) if one["kind"] == name)


def pod_of(command: str) -> dict[str, Any]:
    """Return what the chart's Deployment of a command runs."""
    file = "cim-worker.yaml" if command == "run" else f"{command}.yaml"
    pod: dict[str, Any] = kind("Deployment", file)["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == [command]
    return pod


def pods() -> dict[str, dict[str, Any]]:
    """Return every pod of the manifests, by the name of what makes it."""
    documents = [one for file in ("cim-worker.yaml", "gateway.yaml", "desk.yaml") for one in manifests(file)]
    with_pods = [one for one in documents if "template" in one.get("spec", {})]
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in with_pods}


@pytest.mark.parametrize("file", PLAIN_YAML, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_every_file_is_yaml(file: Path) -> None:
    assert list(yaml.safe_load_all(file.read_text()))


@pytest.mark.parametrize("expression", expressions() + expressions_of_runbook())
def test_every_metric_that_is_asked_for_exists_with_its_labels(expression: str) -> None:
    used = re.findall(r"\b(cim_\w+)(?:\{([^}]*)\})?", expression)
    for name, selector in used:
        family = re.sub(r"_(bucket|sum|count)$", "", name) if name not in FAMILIES else name
        assert family in FAMILIES, name
        labels = set(re.findall(r"(\w+)(?:=~|!=|!~|=)", selector)) - {"job", "instance"}
        assert labels <= {*FAMILIES[family].labels, "le"}, expression
    assert set(re.findall(r"\bcim:\w+(?::\w+)?", expression)) <= RECORDED
    assert outcomes_named(expression) <= set(Outcome)


def test_outcomes_are_asked_for_by_dashboard_rules_and_runbook() -> None:
    assert outcomes_named(" ".join(expressions())) >= {"published", "dead", "handed_back"}
    assert outcomes_named(" ".join(expressions_of_runbook())) >= {"retry", "handed_back"}


def test_rules_and_dashboard_use_all_that_workers_and_gateway_say() -> None:
    asked = " ".join(expressions())
    assert {name for name in FAMILIES if name not in asked} <= {"cim_process_start_time_seconds"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_is_in_the_runbook_with_what_it_means_where_to_look_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["alert"] in ENTRIES, "the runbook has no entry for it"
    assert all(word in ENTRIES[alert["alert"]] for word in ("**Means**", "**Look**", "**Do**", "*Tried*"))
    assert alert["annotations"]["runbook_url"] == f"deploy/runbook.md#{alert['alert'].lower()}"
    assert alert["labels"]["severity"] in {"page", "ticket"}


def test_every_alert_is_tested_and_quiet_on_a_normal_day() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules.test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    quiet = {case["alertname"] for test in tests for case in test["alert_rule_test"] if not case["exp_alerts"]}
    assert fired == quiet == {alert["alert"] for alert in ALERTS}


def test_the_charts_rules_are_these_rules() -> None:
    assert (CHART / "files" / "rules.yml").read_text() == (DEPLOY / "prometheus" / "rules.yml").read_text()


@pytest.mark.parametrize("command", ["run", "gateway"])
def test_probes_ask_the_operators_port_and_the_paths_that_it_has(command: str) -> None:
    container = pod_of(command)["containers"][0]
    assert {"name": "http", "containerPort": DEFAULTS["http_port"]} in container["ports"]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert {probe["path"] for probe in probes.values()} <= {"/livez", "/readyz"}
    assert (probes["livenessProbe"]["path"], probes["readinessProbe"]["path"]) == ("/livez", "/readyz")
    assert kind("ConfigMap")["data"]["CIM_HTTP_PORT"] == str(DEFAULTS["http_port"])
    assert kind("ConfigMap")["data"]["CIM_HTTP_HOST"] == "0.0.0.0"  # noqa: S104 - as containers need it


@pytest.mark.parametrize(
    ("command", "service_port"), [("gateway", "http-activities"), ("gateway", "http"), ("desk", "http-desk")]
)
def test_services_lead_to_the_ports_that_gateway_and_desk_listen_on(command: str, service_port: str) -> None:
    of_service = {one["name"]: one["targetPort"] for one in kind("Service", f"{command}.yaml")["spec"]["ports"]}
    container = pod_of(command)["containers"][0]
    open_ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    numbers = {"http-activities": "gateway_port", "http": "http_port", "http-desk": "desk_port"}
    assert open_ports[of_service[service_port]] == DEFAULTS[numbers[service_port]]
    listens = {one["name"]: one["value"] for one in container["env"]}
    assert listens[f"CIM_{command.upper()}_HOST"] == "0.0.0.0"  # noqa: S104 - as containers need it


@pytest.mark.parametrize("command", ["run", "gateway"])
def test_a_pods_grace_period_is_longer_than_its_pause_and_the_drain(command: str) -> None:
    pause = int(pod_of(command)["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])
    drain = math.ceil(int(kind("ConfigMap")["data"]["CIM_DRAIN_GRACE_MS"]) / 1000)
    assert VALUES["drainGraceMs"] == DEFAULTS["drain_grace_ms"]
    assert pod_of(command)["terminationGracePeriodSeconds"] >= pause + drain + 10


def test_a_pod_may_do_nothing_it_need_not() -> None:
    for pod in pods().values():
        container = pod["containers"][0]["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        assert container["readOnlyRootFilesystem"]
        assert container["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in pod["containers"][0]["resources"]["limits"]


def test_each_pod_sees_the_passwords_it_reads_and_no_other() -> None:
    seen = {pod["containers"][0]["name"]: secrets(pod) for pod in pods().values()}
    assert seen == {
        "worker": {"rabbitmq-url", "mongodb-uri", "rabbitmq-management-url"},
        "topology": {"rabbitmq-topology-url"},
        "store": {"mongodb-uri"},
        "gateway": {"rabbitmq-gateway-url", "gateway-tokens"},
        "desk": {"rabbitmq-desk-url", "mongodb-uri", "rabbitmq-management-url", "desk-tokens"},
    }
    for pod in pods().values():
        variables = [one for one in pod["containers"][0]["env"] if one["name"].endswith("_FILE")]
        assert {one["value"].rpartition("/")[2] for one in variables} == secrets(pod)


def secrets(pod: dict[str, Any]) -> set[str]:
    """Return the keys of the secret that are files in a pod."""
    return {item["key"] for item in pod["volumes"][0]["secret"]["items"]}


def test_the_workers_believe_gateway_and_desk_whoever_is_in_them() -> None:
    users = {one["name"] for one in json.loads((DEPLOY / "rabbitmq" / "users.json").read_text())}
    trusted = set(kind("ConfigMap")["data"]["CIM_TRUSTED_USERS"].split(","))
    assert trusted == {VALUES["gateway"]["brokerUser"], VALUES["desk"]["brokerUser"]} <= users
    assert not VALUES["gateway"]["enabled"]
    assert not VALUES["desk"]["enabled"]


def test_every_setting_in_the_manifests_exists() -> None:
    names = set(kind("ConfigMap")["data"])
    for service in COMPOSE["services"].values():
        names |= {name for name in service.get("environment", {}) if name.startswith("CIM_")}
    for pod in pods().values():
        names |= {one["name"] for container in pod["containers"] for one in container["env"]}
    settings = {f"CIM_{name.upper()}" for name in Settings.model_fields}
    files = {f"{name}_FILE" for name in settings}
    assert names <= settings | files


def test_the_autoscaler_is_given_what_a_pod_takes_and_never_less_than_it_holds() -> None:
    scaled = kind("ScaledObject", "autoscaling.yaml")["spec"]
    values = VALUES["autoscaling"]
    for trigger in scaled["triggers"]:
        threshold = int(trigger["metadata"]["value"])
        assert threshold == values["messagesPerSecondPerPod"] * values["drainSeconds"]
        assert threshold >= 2 * DEFAULTS["prefetch"] * VALUES["processes"]
        assert (trigger["metadata"]["protocol"], trigger["metadata"]["mode"]) == ("http", "QueueLength")
    assert scaled["minReplicaCount"] >= 1


def test_compose_stops_slower_than_the_worker_drains() -> None:
    seconds = int(COMPOSE["services"]["worker"]["stop_grace_period"].rstrip("s"))
    assert seconds >= DEFAULTS["drain_grace_ms"] / 1000 + 10


def test_every_service_of_ours_is_read_only_and_waits_for_what_it_needs() -> None:
    ours = {name: one for name, one in COMPOSE["services"].items() if one.get("image") == "cim-worker"}
    assert set(ours) == {"users", "topology", "indexes", "worker", "gateway", "desk"}
    for service in ours.values():
        assert service["read_only"]
        assert service["depends_on"]
    for name in ("worker", "gateway", "desk"):
        assert set(ours[name]["depends_on"]) == {"topology", "indexes"}


def test_every_secret_of_the_compose_file_is_made() -> None:
    made = (DEPLOY / "compose" / "passwords.py").read_text()
    for name in COMPOSE["secrets"]:
        assert f'"{name.removesuffix(".url")}"' in made, name


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.name))
def test_units_can_be_read_and_stop_slower_than_the_worker_drains(unit: Path) -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(unit.read_text())
    assert parser.has_section("Unit")
    if unit.name in {"cim-worker.service", "cim-gateway.service"}:
        assert int(parser["Service"]["timeoutstopsec"]) >= DEFAULTS["drain_grace_ms"] / 1000 + 10


def test_the_image_has_every_dependency_at_the_version_that_is_tested() -> None:
    pinned = dict(
        line.split("==") for line in (DEPLOY / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    requirements = importlib.metadata.requires("cim-worker") or []
    used = [one for one in requirements if "extra ==" not in one or "extra == 'native'" in one]
    names = {found[0].lower() for one in used if (found := re.match(r"[\w-]+", one))}
    assert {"cython", "orjson"} <= names
    assert names <= set(pinned), "pin it in deploy/constraints.txt"


def test_the_image_runs_the_worker_itself_as_nobody_and_what_builds_it_is_not_in_it() -> None:
    build, last = (DEPLOY / "Dockerfile").read_text().split("FROM ")[1:]
    assert "HATCH_BUILD_HOOKS_ENABLE=1" in build
    assert [tool for tool in ("gcc", "python3-dev", "pip ", "pip3") if tool in last] == []
    assert 'ENTRYPOINT ["cim-worker"]' in last
    assert "USER 10001:10001" in last
    assert "HEALTHCHECK" in last
    assert "/livez" in last
    assert f"EXPOSE {DEFAULTS['http_port']}" in last


def test_the_page_has_the_same_setting_for_a_cluster_of_an_old_rabbitmq_as_the_file_for_a_new_one() -> None:
    line = r"^raft\.adaptive_failure_detector\.poll_interval = (\d+)$"
    (interval,) = re.findall(line, (DEPLOY / "rabbitmq" / "cluster.conf").read_text(), re.MULTILINE)
    assert FOR_OLDER_ONES.strip() == f"[{{aten, [{{poll_interval, {interval}}}]}}]."
    assert FOR_OLDER_ONES in (DEPLOY / "rabbitmq" / "README.md").read_text()
