"""Signed tokens are verified with keys from a file as with those from an address."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from worker.web.gateway.answers import Refused
from worker.web.gateway.callers import Caller, Roles
from worker.web.gateway.signed import Expected, Keys, SignedTokens

if TYPE_CHECKING:
    from pathlib import Path

EXPECTED = Expected("https://id.example.org", "activities", "sub", "roles")


def token(key: ec.EllipticCurvePrivateKey) -> str:
    claims = {"iss": EXPECTED.issuer, "aud": EXPECTED.audience, "sub": "crm", "roles": ["agent"]}
    return jwt.encode({**claims, "exp": int(time.time()) + 60}, key, algorithm="ES256", headers={"kid": "k-1"})


async def test_keys_come_from_a_file_which_may_change(tmp_path: Path) -> None:
    file, now = tmp_path / "jwks.json", [0.0]
    old, new = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def publish(key: ec.EllipticCurvePrivateKey, kid: str) -> None:
        public = json.loads(ECAlgorithm.to_jwk(key.public_key()))
        file.write_text(json.dumps({"keys": [{**public, "kid": kid, "use": "sig"}]}))

    publish(old, "k-1")
    roles = Roles({"agent": frozenset({"form-1"})})
    tokens = SignedTokens(Keys(str(file), lambda: now[0]), EXPECTED, roles, time.time)
    assert await tokens.caller(token(old)) == Caller("crm", frozenset({"form-1"}))
    with pytest.raises(Refused, match="signature is wrong"):
        await tokens.caller(token(new))
    publish(new, "k-1")
    now[0] += 301
    with pytest.raises(Refused):
        await tokens.caller(token(new))  # those known are used while they are read again
    await tokens.prepare()
    assert await tokens.caller(token(new)) == Caller("crm", frozenset({"form-1"}))
