"""What an ordinary message is stored as is written from its JSON; run by `make check-native`, where that is built."""

from __future__ import annotations

import orjson
import pytest

from tests.support.examples import NAMES, RECEIVED_AT, accepted, document
from worker.cim import CimMessage, parse
from worker.mongo import activities
from worker.pipeline.translate import translate


@pytest.mark.parametrize("name", [name for name in NAMES if name != "survey_form_data"])
def test_an_ordinary_message_is_written_from_its_json(name: str) -> None:
    message = parse(orjson.dumps(accepted(document(name)).wire), received_at=RECEIVED_AT)
    assert isinstance(message, CimMessage)
    assert activities._encode_compiled(translate(message, None, now=1), 7) is not None
