"""`cim-worker topology` on a virtual host of its own."""

from __future__ import annotations

import pika

from tests.support.command import cim_worker, printed_json
from worker.cli.exit_codes import ExitCode


def test_an_empty_virtual_host_fails_the_check_and_says_what_to_do(vhost_url: str) -> None:
    finished = cim_worker("topology", "check", CIM_RABBITMQ_URL=vhost_url)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "cim.ingress" in finished.stdout
    assert "cim-worker topology apply" in finished.stdout


def test_after_apply_everything_is_there_and_apply_may_be_repeated(vhost_url: str) -> None:
    first = cim_worker("topology", "apply", "--json", CIM_RABBITMQ_URL=vhost_url)
    second = cim_worker("topology", "apply", CIM_RABBITMQ_URL=vhost_url)
    check = cim_worker("topology", "check", "--json", CIM_RABBITMQ_URL=vhost_url)

    assert (first.returncode, second.returncode, check.returncode) == (ExitCode.OK, ExitCode.OK, ExitCode.OK)
    assert printed_json(first)["problems"] == 0
    names = {finding["name"] for finding in printed_json(check)["findings"]}
    assert names >= {"cim.ingress", "cim.conversations", "cim.dead-letters", "cim.ingress.retry.10m"}


def test_a_queue_with_other_arguments_is_named_with_the_difference_and_left_alone(vhost_url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        connection.channel().queue_declare("cim.ingress", durable=True)

    applied = cim_worker("topology", "apply", "--json", CIM_RABBITMQ_URL=vhost_url)
    checked = cim_worker("topology", "check", "--json", CIM_RABBITMQ_URL=vhost_url)

    assert (applied.returncode, checked.returncode) == (ExitCode.CONFIGURATION, ExitCode.CONFIGURATION)
    problems = [finding for finding in printed_json(applied)["findings"] if finding["problem"]]
    assert [finding["name"] for finding in problems] == ["cim.ingress"]
    assert "x-" in problems[0]["problem"] or "type" in problems[0]["problem"]
    assert "cim.ingress" in problems[0]["fix"]


def test_a_refused_password_is_a_matter_of_configuration_and_is_not_repeated(vhost_url: str) -> None:
    url = vhost_url.replace("guest:guest", "guest:hunter2")

    finished = cim_worker("topology", "check", CIM_RABBITMQ_URL=url)

    assert finished.returncode == ExitCode.CONFIGURATION
    assert "hunter2" not in finished.stdout + finished.stderr
    assert "CIM_RABBITMQ_URL" in finished.stderr
