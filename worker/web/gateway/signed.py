"""Signed bearer tokens (JWT): verified against published keys, with issuer, audience and time."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jwt
import structlog

from worker.cim.ids import is_valid_id
from worker.web.gateway.answers import Refused
from worker.web.gateway.callers import unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.web.gateway.callers import Caller, Roles

_ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Signatures with a key pair only: with a shared secret, whoever can verify can also sign."""
_LEEWAY_SECONDS: Final = 30
_FRESH_SECONDS: Final = 300.0
"""Keys are fetched again after this long, while those known are used."""
_PAUSE_SECONDS: Final = 5.0
"""Shortest time between two fetches: a client with nonsense for a key id must not make us hammer their server."""
_FETCH_SECONDS: Final = 4.0
_MAX_KEYS_BYTES: Final = 1024 * 1024
_REMEMBERED: Final = 10_000
_REMEMBERED_SECONDS: Final = 60.0
"""How long a verified token is not verified again; the end of its validity is always kept."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token has to say."""

    issuer: str
    audience: str
    user_claim: str
    roles_claim: str


class SignedTokens:
    """Verifies tokens and remembers those that are valid, for a while."""

    def __init__(self, keys: Keys, expected: Expected, roles: Roles, now: Callable[[], float]) -> None:
        """*now* returns epoch seconds."""
        self._keys = keys
        self._expected = expected
        self._roles = roles
        self._now = now
        self._remembered: dict[bytes, tuple[Caller, float]] = {}

    async def prepare(self) -> None:
        """Fetch the keys, so that the first request need not wait for them."""
        await self._keys.prepare()

    async def caller(self, token: str) -> Caller | None:
        """Return whose token it is. Raises `Refused` when it is not valid, or when there are no keys to tell."""
        digest = sha256(token.encode("latin-1", "replace")).digest()
        caller, until = self._remembered.get(digest, (None, 0.0))
        if caller is not None and self._now() < until:
            return caller
        claims = await self._claims(token)
        caller = self._roles.caller(self._name(claims), _strings(_at(claims, self._expected.roles_claim)))
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[digest] = caller, min(self._now() + _REMEMBERED_SECONDS, float(claims["exp"]))
        return caller

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            key = await self._keys.get(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                raise unauthorized("The token is signed with a key that its issuer does not publish.")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                audience=self._expected.audience,
                issuer=self._expected.issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp"]},
            )
        except jwt.ExpiredSignatureError:
            raise unauthorized("The token has expired.") from None
        except (jwt.InvalidTokenError, TypeError, ValueError) as error:
            raise unauthorized(f"The token is not valid: {_KINDS.get(type(error), 'it cannot be verified')}.") from None
        return claims

    def _name(self, claims: dict[str, Any]) -> str:
        name = _at(claims, self._expected.user_claim)
        if not isinstance(name, str) or not is_valid_id(name):
            raise unauthorized(f"The token has no usable claim `{self._expected.user_claim}`, which names the user.")
        return name


_KINDS: Final = {
    jwt.InvalidAudienceError: "it is meant for another audience",
    jwt.InvalidIssuerError: "it comes from another issuer",
    jwt.InvalidSignatureError: "the signature is wrong",
    jwt.InvalidAlgorithmError: "the kind of signature is not accepted",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.MissingRequiredClaimError: "a claim is missing: aud, exp and iss are required",
}


class KeysError(Exception):
    """Keys cannot be had. The text is half a sentence."""


class Keys:
    """The published keys, by key id: from a file or from an address."""

    def __init__(self, source: str, monotonic: Callable[[], float]) -> None:
        self._source = source
        self._monotonic = monotonic
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def get(self, key_id: str | None) -> jwt.PyJWK | None:
        """Return a key, None when it is not published. Raises `Refused` (503) when there are no keys at all."""
        now = self._monotonic()
        if now - self._fetched_at > _FRESH_SECONDS:
            self._fetch_unless_just_tried(now)
        found = self._find(key_id)
        if found is not None:
            return found
        self._fetch_unless_just_tried(now)
        if self._fetching is not None:
            await asyncio.shield(self._fetching)
        if not self._keys:
            message = "The keys to verify tokens with cannot be had at the moment."
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after_seconds=5)
        return self._find(key_id)

    async def prepare(self) -> None:
        """Fetch them, if that was not tried just now."""
        self._fetch_unless_just_tried(self._monotonic())
        if self._fetching is not None:
            await self._fetching

    def _find(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _fetch_unless_just_tried(self, now: float) -> None:
        if self._fetching is None and now - self._tried_at > _PAUSE_SECONDS:
            self._tried_at = now
            self._fetching = asyncio.create_task(self._fetch(), name="fetch keys")

    async def _fetch(self) -> None:
        try:
            self._keys = await asyncio.to_thread(load_keys, self._source)
            self._fetched_at = self._monotonic()
        except KeysError as error:
            structlog.get_logger().warning("gateway_keys_not_read", source=self._source, reason=str(error))
        finally:
            self._fetching = None


def load_keys(source: str) -> dict[str | None, jwt.PyJWK]:
    """Return the keys in the JWKS at *source*, a file or an http(s) address. Blocking. Raises `KeysError`."""
    try:
        found = jwt.PyJWKSet.from_dict(json.loads(_read(source)))
    except OSError as error:
        raise KeysError(f"cannot be read: {getattr(error, 'reason', None) or error.strerror or error}") from None
    except (ValueError, TypeError, AttributeError, jwt.PyJWTError):
        raise KeysError("is no JWKS with a usable key") from None
    return {key.key_id: key for key in found.keys if key.public_key_use in {None, "sig"}}


def is_address(source: str) -> bool:
    """Tell whether *source* is an address and no file."""
    return source.startswith(("http://", "https://"))


def _read(source: str) -> bytes:
    if not is_address(source):
        return Path(source).read_bytes()
    with urllib.request.urlopen(source, timeout=_FETCH_SECONDS) as answer:  # noqa: S310 - http or https: see above
        return bytes(answer.read(_MAX_KEYS_BYTES))


def _at(claims: dict[str, Any], path: str) -> object:
    """Return what is at *path*, whose dots step into objects unless a claim has the whole path for its name."""
    if path in claims:
        return claims[path]
    value: object = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
