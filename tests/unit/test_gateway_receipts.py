"""Only a whole receipt answers a request that waits for it: others may write to the gateway's queue as well."""

from __future__ import annotations

import orjson
import pytest

from worker.web.gateway.receipts import Receipts

WHOLE = {"eventId": "e", "outcome": "stored", "code": None, "problems": None}


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"no JSON", b"[]", b"1", b'"e"', b"{}", orjson.dumps({**WHOLE, "eventId": "other"})),
        *(orjson.dumps({**WHOLE, "eventId": []}), orjson.dumps({**WHOLE, "outcome": []})),
        orjson.dumps({**WHOLE, "outcome": "lost"}),
        *(orjson.dumps({name: value for name, value in WHOLE.items() if name != missing}) for missing in WHOLE),
    ],
)
async def test_what_is_no_receipt_answers_nobody(body: bytes) -> None:
    receipts = Receipts()
    outcome = receipts.expect("e")
    receipts._received(body)
    assert not outcome.done()
    receipts._received(orjson.dumps(WHOLE))
    assert outcome.result() == WHOLE
