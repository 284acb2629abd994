"""Addresses of broker and store: read in one way or refused, and no part of a password is ever shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.uri_parser import parse_uri

from worker.addresses import address, url_without_credentials, user_name, virtual_host
from worker.mongo.client import redacted
from worker.settings import ConfigurationError, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRETS = ("s3cret", "P4rt", "tr4iling")
NASTY = ":/?#@[]%&=+,.;!$\"'\\ \t\n\r\0<>{}|^`~é-_09azAZ"
passwords = st.builds(
    "{}".format,
    st.lists(st.one_of(st.text(NASTY, max_size=3), st.sampled_from(SECRETS)), min_size=1, max_size=6).map("".join),
)
users = st.one_of(st.just("me"), st.text(NASTY, max_size=4).map("{}@corp.com".format), st.just(SECRETS[1]))
places = st.sampled_from(["store.example", "store.example:5671", "store.example:5671/", "store.example/x?y=1"])


def shown(settings: Settings) -> str:
    """Return everything that logs, errors and commands show of the two addresses."""
    urls = (settings.rabbitmq_url, settings.mongodb_uri)
    texts = [function(url) for url in urls for function in (address, url_without_credentials, repr, str)]
    return "\n".join([*texts, redacted(settings.mongodb_uri.get_secret_value()), repr(settings)])


@given(variable=st.sampled_from(["rabbitmq_url", "mongodb_uri"]), user=users, password=passwords, place=places)
def test_no_part_of_a_password_is_shown_whether_the_address_is_taken_or_refused(
    variable: str, user: str, password: str, place: str
) -> None:
    scheme = "amqp" if variable == "rabbitmq_url" else "mongodb"
    url = f"{scheme}://{user}:{password}@{place}"
    try:
        text = shown(load_settings(**{variable: url}))
    except ConfigurationError as error:
        text = str(error)
        assert text.startswith(f"CIM_{variable.upper()}: ")
    else:
        assert "store.example" in text
    assert not [secret for secret in SECRETS if secret in text + redacted(url)]


@given(user=users.filter(bool), password=passwords)
def test_percent_encoded_they_are_always_taken_and_the_drivers_read_the_same(user: str, password: str) -> None:
    who = f"{quote(user, safe='')}:{quote(password, safe='')}"
    settings = load_settings(
        rabbitmq_url=f"amqp://{who}@broker.example/", mongodb_uri=f"mongodb://{who}@store.example/"
    )

    parameters: Any = pika.URLParameters(settings.rabbitmq_url.get_secret_value())
    parsed: Mapping[str, Any] = parse_uri(settings.mongodb_uri.get_secret_value())
    assert (parameters.credentials.username, parameters.credentials.password) == (user, password)
    assert (parsed["username"], parsed["password"]) == (user, password)
    assert user_name(settings.rabbitmq_url) == user
    assert not [secret for secret in SECRETS if secret in shown(settings)]


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("mongodb_uri", "mongodb://me@corp.com:s3cretPart?x@store/"),
        ("mongodb_uri", "mongodb://me:s3cret#Part@store/"),
        ("mongodb_uri", "mongodb://me:s3cret@Part@store/"),
        ("mongodb_uri", "mongodb://me:s3cret/Part@store/"),
        ("mongodb_uri", "mongodb://me:s3cret@store/?x=y@z"),
        ("mongodb_uri", "mongodb://me:s3cret"),
        ("mongodb_uri", "mongodb://me:s3:cret@store"),
        ("mongodb_uri", "mongodb://me:s3cr%et@store"),
        ("mongodb_uri", "mongodb://me:s3cret@store:27017,other:s3cret/"),
        ("mongodb_uri", "mongodb://me:s3cret@store\n/"),
        ("rabbitmq_url", "amqp://me:s3cret@corp.com:Part@broker/"),
        ("rabbitmq_url", "amqp://me:s3cret#@broker/"),
        ("rabbitmq_url", "amqp://me:s3\ncret@broker/"),
        ("rabbitmq_url", "amqp://me:s3cret@one,two/"),
        ("rabbitmq_url", "amqp://me:s3cret@broker:port/"),
        ("rabbitmq_url", "amqp://me:s3cret@broker:65536/"),
        ("rabbitmq_url", "amqp://me:s3[cret@broker/"),
        ("rabbitmq_url", "amqp://me:s3\uff0fcret@broker/"),
        ("rabbitmq_url", "https://me:s3cret@broker/"),
    ],
)
def test_an_ambiguous_address_is_refused_and_nothing_of_it_repeated(variable: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^CIM_{variable.upper()}: ") as caught:
        load_settings(**{variable: url})

    assert not [part for part in ("s3", "cret", "Part", "corp", "store", "broker/") if part in str(caught.value)]


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("mongodb_uri", "mongodb://a:1,b.example:2,[::1]:3/?replicaSet=rs&w=majority"),
        ("mongodb_uri", "mongodb+srv://me:pa%40ss@cluster.example/?tls=true"),
        ("mongodb_uri", "mongodb://%2Ftmp%2Fmongodb-27017.sock/"),
        ("rabbitmq_url", "amqp://me:a:b@broker"),
        ("rabbitmq_url", "amqps://me:p%2Fw@[::1]:5671/%2Fhost?heartbeat=5"),
        ("rabbitmq_url", "amqp://broker_1/some%20host"),
    ],
)
def test_an_address_that_is_clear_is_taken(variable: str, url: str) -> None:
    assert getattr(load_settings(**{variable: url}), variable).get_secret_value() == url


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "a\n",
        "\n",
        "a.b",
        "$cmd",
        "a/b",
        "a\\b",
        'a"b',
        "a\0",
        "a*",
        "x" * 64,
        "é" * 32,
        "local",
        "admin",
    ],
)
def test_a_name_that_is_no_databases_is_refused_at_start(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^CIM_MONGODB_DATABASE: "):
        load_settings(mongodb_database=name)


@pytest.mark.parametrize("name", ["conversation-manager_db", "x" * 63, "données"])
def test_a_databases_name_is_taken(name: str) -> None:
    assert load_settings(mongodb_database=name).mongodb_database == name


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("amqp://me:pw@a/v, amqp://me:pw@b:5673/v", "amqp://me:pw@a/v,amqp://me:pw@b:5673/v"),
        ("amqps://me:pw@a/v,amqp://me:other@b/v", "amqps://me:pw@a/v,amqp://me:other@b/v"),
    ],
)
def test_several_addresses_of_a_broker_are_nodes_of_one_cluster(value: str, kept: str) -> None:
    settings = load_settings(rabbitmq_url=value)
    assert settings.rabbitmq_url.get_secret_value() == kept
    assert (user_name(settings.rabbitmq_url), virtual_host(settings.rabbitmq_url)) == ("me", "v")
    assert address(settings.rabbitmq_url) in {"a:5672, b:5673", "a:5671, b:5672"}
    assert "pw" not in url_without_credentials(settings.rabbitmq_url)


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        ("amqp://me:pw@a,b/", "whole URLs"),
        ("amqp://me:p,w@a/", "%2C"),
        ("amqp://me:pw@a/,amqp://you:pw@b/", "same user"),
        ("amqp://me:pw@a/x,amqp://me:pw@b/y", "same virtual host"),
        ("amqp://me:pw@a/,amqp://", "names a host"),
    ],
)
def test_addresses_that_are_no_nodes_of_one_cluster_are_refused_with_the_fix(value: str, fix: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^CIM_RABBITMQ_URL: .*{fix}") as caught:
        load_settings(rabbitmq_url=value)
    assert "pw" not in str(caught.value)
