"""The publisher in Python of `schemas/examples/clients`, against a real worker; `make clients` runs all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.client_promises import Ingress
from tests.support.clients import built

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.services.services import Broker, Store


@pytest.mark.parametrize(
    ("language", "program"), [("javascript", "node and npm"), ("go", "go"), ("java", "java and javac and mvn")]
)
def test_a_toolchain_that_is_missing_is_named(
    language: str, program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(
        AssertionError, match=f"the {language} client needs {program}, which this machine does not have"
    ):
        built(language, tmp_path)


def test_the_python_example_says_what_became_of_a_message_and_what_is_none(
    broker: Broker, vhost_url: str, store: Store, database: str, url_of: Callable[[str], str], tmp_path: Path
) -> None:
    client = built("python", tmp_path)
    ingress = Ingress(client, broker, vhost_url, store, database, url_of("publisher"), tmp_path)
    ingress.answers_in_one_sentence_whatever_it_is_given()
    ingress.tells_what_became_of_messages()
