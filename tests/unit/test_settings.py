"""Settings whose name nobody reads are found, and only those."""

import os

import pytest

from worker.settings import misspelt_variables


@pytest.fixture(autouse=True)
def _no_settings_of_whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("CIM_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CIM_WORKER_PREFETCH", "CIM_PREFETCH"),
        ("CIM_PREFETCH_COUNT", "CIM_PREFETCH"),
        ("CIM_BATCHSIZE", "CIM_BATCH_SIZE"),
        ("CIM_MONGO_URL", "CIM_MONGODB_URI"),
        ("CIM_AMQP_URL", "CIM_RABBITMQ_URL"),
        ("cim_loglevel", "CIM_LOG_LEVEL"),
    ],
)
def test_a_name_that_looks_like_a_setting_is_told_with_the_setting(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "hunter2")
    assert misspelt_variables() == {name: meant}


@pytest.mark.parametrize(
    "name",
    [
        "CIM_PREFETCH",
        "cim_prefetch",
        "PREFETCH",
        # Kubernetes puts these beside a service called cim-worker.
        "CIM_WORKER_PORT",
        "CIM_WORKER_SERVICE_HOST",
        "CIM_WORKER_PORT_9000_TCP_ADDR",
        "CIM_DASHBOARD_LOG_LEVEL",
    ],
)
def test_settings_and_variables_of_other_programs_are_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert misspelt_variables() == {}
