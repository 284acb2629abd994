"""`make clients`: the example of each language is built with its toolchain, and does the same as the Python one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.client_promises import Ingress
from tests.support.clients import TOOLCHAINS, Client, built

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.services.services import Broker, Store


@pytest.fixture(scope="module", params=TOOLCHAINS)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Return the example of one language, built."""
    return built(request.param, tmp_path_factory.mktemp("clients"))


@pytest.fixture
def ingress(
    client: Client,
    broker: Broker,
    vhost_url: str,
    store: Store,
    database: str,
    url_of: Callable[[str], str],
    tmp_path: Path,
) -> Ingress:
    """Return a worker's broker and store, and a publisher in one language with a publisher's rights."""
    return Ingress(client, broker, vhost_url, store, database, url_of("publisher"), tmp_path)


def test_the_receipt_says_what_became_of_a_message(ingress: Ingress) -> None:
    ingress.tells_what_became_of_messages()


def test_a_lost_connection_costs_no_message(ingress: Ingress) -> None:
    ingress.sends_again_after_a_lost_connection()


def test_without_queue_or_right_the_publisher_says_so(ingress: Ingress) -> None:
    ingress.says_that_no_exchange_took_it()
    ingress.says_that_no_queue_took_it()


def test_without_a_receipt_in_time_the_publisher_says_so(ingress: Ingress) -> None:
    ingress.says_that_no_receipt_came()


def test_what_cannot_be_sent_is_answered_in_one_sentence(ingress: Ingress) -> None:
    ingress.answers_in_one_sentence_whatever_it_is_given()
