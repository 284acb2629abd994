"""Who may come in, what they may do, and whether a request is really theirs.

On loopback the user of this process works alone. Any other address needs a token, or a reverse proxy that names the
user. Whatever changes something must come from a form of ours: the browser says from where (`Sec-Fetch-Site`,
`Origin`), and the form holds a value that another site cannot read.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from worker.desk.audit import system_user

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from worker.settings import Settings

VISIT: Final = "cim-desk-visit"
"""Cookie of a browser: what the values in its forms are made from."""
SESSION: Final = "cim-desk-session"
"""Cookie of somebody who came in with a token."""
_SESSION_SECONDS: Final = 12 * 3600
_MOST_SESSIONS: Final = 1000
_SHORTEST_TOKEN: Final = 20
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PARTS: Final = (2, 3)
_READ_ONLY: Final = "read-only"
_LONGEST_NAME: Final = 100


class DoorError(Exception):
    """The page cannot be opened like this. The text is one sentence that names the fix."""


class Caller(NamedTuple):
    """Somebody who was let in."""

    user: str
    may_change: bool


@dataclass(slots=True)
class _Session:
    caller: Caller
    expires: float


@dataclass(slots=True)
class Door:
    """Decides about each request. Single process; sessions end with it."""

    loopback_user: str | None
    """Who works when nobody has to say who they are; None: everybody has to."""
    tokens: Mapping[str, Caller]
    """Callers by the SHA-256 of their token."""
    user_header: str | None
    proxies: Sequence[str]
    hosts: frozenset[str]
    """Names this page is called by, when it trusts everybody who reaches it."""
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _sessions: dict[str, _Session] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> Door:
        """Return the door that *settings* ask for. Raises `DoorError` for an address that would be open to all."""
        tokens = {} if settings.desk_token_file is None else read_tokens(Path(settings.desk_token_file))
        is_guarded = bool(tokens) or settings.desk_user_header is not None
        if not is_guarded and settings.desk_host not in _LOOPBACK:
            text = f"CIM_DESK_HOST {settings.desk_host} is reached by others: set CIM_DESK_TOKEN_FILE, or"
            raise DoorError(f"{text} CIM_DESK_USER_HEADER and CIM_DESK_TRUSTED_PROXIES")
        hosts = frozenset({*_LOOPBACK, settings.desk_host})
        user = None if is_guarded else system_user()
        return cls(user, tokens, settings.desk_user_header, settings.desk_trusted_proxies, hosts)

    @property
    def takes_tokens(self) -> bool:
        """Whether one comes in with a token."""
        return bool(self.tokens)

    def is_meant(self, request: Request) -> bool:
        """Tell whether *request* names this page: a name of a stranger that leads to loopback is an attack."""
        return self.loopback_user is None or (_host_of(request.headers.get("host", "")) in self.hosts)

    def caller(self, request: Request) -> Caller | None:
        """Return who asks, None for somebody who has to say so first."""
        if self.loopback_user is not None:
            return Caller(self.loopback_user, may_change=True)
        if self.user_header is not None and self._is_from_proxy(request):
            name = request.headers.get(self.user_header, "").strip()
            if name:
                return Caller(name[:_LONGEST_NAME], may_change=True)
        session = self._sessions.get(request.cookies.get(SESSION, ""))
        return session.caller if session is not None and session.expires > time.monotonic() else None

    def come_in(self, token: str) -> str | None:
        """Return the cookie of a new session, None for a token that nobody has."""
        caller = self.tokens.get(_digest(token.strip()))
        if caller is None:
            return None
        now = time.monotonic()
        self._sessions = {key: one for key, one in self._sessions.items() if one.expires > now}
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        key = secrets.token_urlsafe(32)
        self._sessions[key] = _Session(caller, now + _SESSION_SECONDS)
        return key

    def go_out(self, request: Request) -> None:
        """End the session of *request*."""
        self._sessions.pop(request.cookies.get(SESSION, ""), None)

    def form_value(self, visit: str) -> str:
        """Return what a form of the browser with this cookie has to hold."""
        return hmac.new(self._secret, visit.encode(), hashlib.sha256).hexdigest()

    def is_ours(self, request: Request, value: str) -> bool:
        """Tell whether a form came from a page of ours, in the browser that we gave it to."""
        site = request.headers.get("sec-fetch-site")
        if site is not None and site not in {"same-origin", "none"}:
            return False
        origin = request.headers.get("origin")
        if site is None and origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return False
        visit = request.cookies.get(VISIT, "")
        return bool(visit) and hmac.compare_digest(self.form_value(visit).encode(), value.encode("utf-8", "replace"))

    def _is_from_proxy(self, request: Request) -> bool:
        try:
            address = ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(address in ip_network(one, strict=False) for one in self.proxies)


def set_cookie(response: Response, request: Request, name: str, value: str) -> None:
    """Give the browser a cookie that scripts and other sites do not get."""
    is_tls = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    response.set_cookie(name, value, max_age=_SESSION_SECONDS, httponly=True, samesite="strict", secure=is_tls)


def read_tokens(file: Path) -> dict[str, Caller]:
    """Return the callers in a token file by the digest of their token. Raises `DoorError`, which repeats no token."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise DoorError(f"CIM_DESK_TOKEN_FILE {file} cannot be read") from None
    tokens: dict[str, Caller] = {}
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        is_line = len(parts) in _PARTS and len(parts[1]) >= _SHORTEST_TOKEN and parts[2:] in ([], [_READ_ONLY])
        if not is_line:
            form = f"a name, a token of at least {_SHORTEST_TOKEN} characters, and perhaps {_READ_ONLY}"
            raise DoorError(f"CIM_DESK_TOKEN_FILE {file}, line {number}: {form}")
        tokens[_digest(parts[1])] = Caller(parts[0][:_LONGEST_NAME], may_change=len(parts) == _PARTS[0])
    if not tokens:
        raise DoorError(f"CIM_DESK_TOKEN_FILE {file} names nobody")
    return tokens


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _host_of(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
