"""Who calls, and as which senders that one may send: static bearer tokens, signed ones, or on loopback anybody."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from worker.cim.ids import is_valid_id
from worker.web.gateway.answers import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

ANY_SENDER: Final = "*"
_REREAD_SECONDS: Final = 1.0
_FIELDS: Final = (2, 3)
_HASHED: Final = "sha256:"
_HEX_DIGITS: Final = 64
_CHALLENGE: Final = ((b"www-authenticate", b'Bearer realm="cim-worker"'),)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    name: str | None
    """Travels as `cim-user-id`; None when nobody was asked for a name."""
    senders: frozenset[str] | None = None
    """The senders that may be used; None means every one."""

    def may_send_as(self, sender_id: str) -> bool:
        """Tell whether a message of this sender is taken from this caller."""
        return self.senders is None or sender_id in self.senders


ANYBODY: Final = Caller(None)


class Authentication(Protocol):
    """Finds out who calls."""

    async def prepare(self) -> None:
        """Get what would keep the first request waiting."""

    async def caller(self, token: str) -> Caller | None:
        """Return whose *token* this is; None when it is not known here. Raises `Refused`."""


class Roles:
    """Which senders a role may use."""

    def __init__(self, table: Mapping[str, frozenset[str]]) -> None:
        """An empty *table* lets everybody send as anybody."""
        self._table = table

    @property
    def are_asked(self) -> bool:
        """Whether roles matter."""
        return bool(self._table)

    def caller(self, name: str, roles: Iterable[str]) -> Caller:
        """Return the caller *name* with what *roles* allow. Raises `Refused` when they allow nothing."""
        if not self._table:
            return Caller(name)
        allowed = [self._table[role] for role in roles if role in self._table]
        if not allowed:
            raise Refused(HTTPStatus.FORBIDDEN, "None of the roles of this token may send activities.")
        senders = frozenset().union(*allowed)
        return Caller(name, None if ANY_SENDER in senders else senders)


class Door:
    """Asks every configured kind of authentication; with none of them, everybody may enter."""

    def __init__(self, kinds: Iterable[Authentication]) -> None:
        self._kinds = tuple(kinds)

    async def caller(self, authorization: bytes | None) -> Caller:
        """Return who calls, from the header Authorization. Raises `Refused`: 401, 403, 503."""
        if not self._kinds:
            return ANYBODY
        scheme, _, token = (authorization or b"").strip().decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise unauthorized("Send a bearer token: `Authorization: Bearer TOKEN`.")
        for kind in self._kinds:
            caller = await kind.caller(token.strip())
            if caller is not None:
                return caller
        raise unauthorized("The bearer token is not valid.")


def unauthorized(message: str) -> Refused:
    """Return the refusal of a caller that nobody knows."""
    return Refused(HTTPStatus.UNAUTHORIZED, message, headers=_CHALLENGE)


class TokenFileError(Exception):
    """The file of tokens cannot be used. The text is half a sentence, without any of its tokens."""


class StaticTokens:
    """Bearer tokens from a file, which is read again after it has changed."""

    def __init__(self, file: Path, roles: Roles, monotonic: Callable[[], float]) -> None:
        """Read *file*. Raises `TokenFileError`."""
        self._file = file
        self._roles = roles
        self._monotonic = monotonic
        self._version = _version(file)
        self._known = read_tokens(file)
        self._looked_at = monotonic()

    async def prepare(self) -> None:
        """Nothing to get: the file was read."""

    async def caller(self, token: str) -> Caller | None:
        """Return whose token it is, None when it is not in the file. Raises `Refused` when its roles allow nothing."""
        if self._monotonic() - self._looked_at > _REREAD_SECONDS:
            self._reread()
        # The hash is looked up, not the token: how long that takes says nothing about the tokens.
        named = self._known.get(sha256(token.encode("latin-1", "replace")).hexdigest())
        return None if named is None else self._roles.caller(*named)

    def _reread(self) -> None:
        self._looked_at = self._monotonic()
        version = _version(self._file)
        if version == self._version:
            return
        self._version = version
        try:
            self._known = read_tokens(self._file)
        except TokenFileError as error:
            structlog.get_logger().warning("gateway_tokens_not_read", reason=str(error))
        else:
            structlog.get_logger().info("gateway_tokens_read", count=len(self._known))


def read_tokens(file: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return name and roles of each token, by its SHA-256. Raises `TokenFileError`."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is not UTF-8"
        raise TokenFileError(f"cannot be read: {reason}") from None
    known: dict[str, tuple[str, tuple[str, ...]]] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) not in _FIELDS or not is_valid_id(fields[0]):
            raise TokenFileError(f"line {number} is not NAME TOKEN [ROLE,ROLE]")
        digest = _digest(fields[1], number)
        if digest in known:
            raise TokenFileError(f"line {number} has a token that an earlier line has")
        known[digest] = (fields[0], tuple(fields[2].split(",")) if len(fields) == max(_FIELDS) else ())
    if not known:
        raise TokenFileError("has no token")
    return known


def _digest(token: str, number: int) -> str:
    if not token.startswith(_HASHED):
        return sha256(token.encode("latin-1", "replace")).hexdigest()
    digest = token.removeprefix(_HASHED).lower()
    if len(digest) != _HEX_DIGITS or not all(digit in "0123456789abcdef" for digit in digest):
        raise TokenFileError(f"line {number} has no {_HEX_DIGITS} hex digits after {_HASHED}")
    return digest


def _version(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
