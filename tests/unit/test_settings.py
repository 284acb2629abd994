"""Settings whose name nobody reads are found, and only those."""

import os

import pytest

from worker.settings import ConfigurationError, load_settings, misspelt_variables, usable_processors


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  ", {}),
        ("rec=s-1", {"rec": {"s-1"}}),
        (" rec = s-1 | s-2 ,\tother=s-3 ", {"rec": {"s-1", "s-2"}, "other": {"s-3"}}),
        ("rec=a b", {"rec": {"a b"}}),
        ("rec=YWJj==|eA=", {"rec": {"YWJj==", "eA="}}),
    ],
)
def test_senders_of_users_are_read_without_the_blanks_around_them(
    text: str, expected: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIM_SENDER_USERS", text)
    assert load_settings().sender_users == expected


@pytest.mark.parametrize(
    "text",
    [
        *("rec", "rec=", "=s-1", "rec=|", "rec=s-1|", "rec=s-1||s-2", "rec= |s-1", ",", "rec=s-1,", "rec=s-1,,b=s-2"),
        *("'rec=s-1'", '"rec=s-1"', "rec='s-1'", "rec=`s-1`", '{"rec": ["s-1"]}', "rec:s-1", "rec=s-1;other=s-2"),
        *("rec=s-1 other=s-2", "rec=s-1\nother=s-2", "rec=s-1|other=s-2", "rec==s-1", "rec=s-1\x7f", "rec=s-1,rec=s-2"),
    ],
)
def test_any_other_form_is_refused_because_the_check_would_be_left_out(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIM_SENDER_USERS", text)
    with pytest.raises(ConfigurationError, match=r"^CIM_SENDER_USERS: ") as caught:
        load_settings()
    assert "s-1" not in str(caught.value).replace("sender-1", "")


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CIM_HTTP_PORT", "CIM_RABBITMQ_MANAGEMENT_URL", "CIM_RETRY_DELAYS"):
        monkeypatch.setenv(name, "")
    settings = load_settings()
    assert (settings.http_port, settings.rabbitmq_management_url) == (9464, None)
    assert not settings.model_fields_set, "nothing was asked for"


def test_a_setting_of_an_earlier_version_is_refused_with_its_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIM_HEALTH_PORT", "9400")
    with pytest.raises(ConfigurationError, match=r"^CIM_HEALTH_PORT: is CIM_HTTP_PORT .* now; rename it$"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", {}), (" A = B , QM_ACTIVITY=QM_ACTIVITY", {"A": "B", "QM_ACTIVITY": "QM_ACTIVITY"})],
)
def test_event_names_by_intent(text: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIM_EVENT_NAMES", text)
    assert load_settings().event_names == expected


@pytest.mark.parametrize("text", ["A", "A=", "=B", "A=B,", "A=B C", "A=B,A=C", "A=B=C", "'A=B'"])
def test_any_other_form_of_event_names_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIM_EVENT_NAMES", text)
    with pytest.raises(ConfigurationError, match=r"^CIM_EVENT_NAMES: "):
        load_settings()


def test_trusted_users_are_names_and_nothing_that_could_mean_another_name() -> None:
    assert load_settings(trusted_users="").trusted_users == ()
    assert load_settings(trusted_users=" desk , gateway").trusted_users == ("desk", "gateway")
    for wrong in ("desk,,gateway", ",", "'desk'"):
        with pytest.raises(ConfigurationError, match="CIM_TRUSTED_USERS"):
            load_settings(trusted_users=wrong)


def test_auto_is_one_process_for_each_processor() -> None:
    assert load_settings(processes="auto").processes == usable_processors() >= 1
    with pytest.raises(ConfigurationError, match="CIM_PROCESSES: must be a number of processes, or auto"):
        load_settings(processes="many")
    assert load_settings(processes=" Auto ").processes == usable_processors()


def test_words_are_read_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIM_LOG_LEVEL", " WARNING")
    monkeypatch.setenv("CIM_LOG_FORMAT", "Json")
    settings = load_settings()
    assert (settings.log_level, settings.log_format) == ("warning", "json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CIM_RETRY_DELAYS", "1s,50d"),  # the broker takes no longer one
        ("CIM_RETRY_DELAYS", "\u0663s"),  # a digit, for Python
        ("CIM_RETRY_DELAYS", "01s"),
        ("CIM_CONVERSATION_EXPIRY", "0d"),
        ("CIM_LETTER_RETENTION", "99999999999d"),  # no date holds when that is over
        ("CIM_JOURNAL_MAX_BYTES", "9" * 20),
        ("CIM_GATEWAY_JWKS", "https://user:s3cret@keys/jwks.json"),
    ],
)
def test_what_cannot_work_is_refused_at_start_and_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^{name}: ") as caught:
        load_settings()
    assert "s3cret" not in str(caught.value)
