"""Addresses of broker and store: read in one way or refused, and shown without what is secret in them."""

from __future__ import annotations

import re
import ssl
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import SecretStr

_URL = re.compile(r"(?P<scheme>[a-z+]+)://(?P<authority>[^/?#\s\x00-\x20\x7f]*)(?P<rest>[^\s\x00-\x20\x7f]*)")
_HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+(?:%25[\w.-]+)?\])(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_SOCKET = re.compile(r"%2[Ff][\w.%-]+\.sock")
"""The percent-encoded path of a socket, which MongoDB's addresses may hold."""
_NOT_ENCODED = re.compile(r"%(?![0-9A-Fa-f]{2})|[\[\]@]|[^\x21-\x7e]")
"""In user and password: what URL readers take for something else, each in its own way."""
_MAX_PORT = 65_535
_DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
_LOOPBACK = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?")


def address(url: SecretStr | str) -> str:
    """Return host and port of a URL, never user or password: for people and logs."""
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    if text.startswith("amqp"):
        return ", ".join(map(_address, text.split(",")))
    return _address(text)


def _address(url: str) -> str:
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    default = _DEFAULT_PORTS.get(parts.scheme)
    return hosts if default is None or parts.port is not None else f"{hosts}:{default}"


def url_without_credentials(url: SecretStr) -> str:
    """Return scheme, hosts and path of a URL, for people: a value one can set. Options may be secret: left out."""
    text = url.get_secret_value()
    return ",".join(map(_without_credentials, text.split(",") if text.startswith("amqp") else [text]))


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{_address(url)}{parts.path or '/'}"


def hosts(url: SecretStr) -> list[str]:
    """Return each host of a URL or of several, with its port where one is given or known by the scheme."""
    return address(url).replace(" ", "").split(",")


def is_local(url: SecretStr) -> bool:
    """Tell whether every host is this machine's loopback: what goes there, nobody else can read."""
    return all(map(_LOOPBACK.fullmatch, hosts(url)))


def virtual_host(url: SecretStr) -> str:
    """Return the virtual host of a broker URL; RabbitMQ's default is /."""
    return unquote(_first(url).path[1:]) or "/"


def user_name(url: SecretStr) -> str:
    """Return the user of a broker URL; RabbitMQ's default is guest."""
    return unquote(_first(url).username or "guest")


def _first(url: SecretStr) -> SplitResult:
    """Return the first of the nodes of a broker; user and virtual host are the same for all."""
    return urlsplit(url.get_secret_value().partition(",")[0])


def checked_brokers(value: SecretStr) -> SecretStr:
    """Return the addresses in *value*, comma separated without blanks: nodes of one cluster. Raises ValueError."""
    urls = [SecretStr(url.strip()) for url in re.split(r",(?=\s*amqps?://)", value.get_secret_value())]
    if len(urls) == 1 and "," not in urls[0].get_secret_value():
        return checked_url(value, ("amqp", "amqps"))
    if any("," in url.get_secret_value() for url in urls):
        msg = "several addresses are whole URLs, amqp://…,amqp://…; a comma inside one is written %2C"
        raise ValueError(msg)
    checked = [checked_url(url, ("amqp", "amqps")) for url in urls]
    if len({(user_name(url), virtual_host(url)) for url in checked}) > 1:
        msg = "several addresses are nodes of one cluster: all need the same user and the same virtual host"
        raise ValueError(msg)
    return SecretStr(",".join(url.get_secret_value() for url in checked))


def checked_url(value: SecretStr, schemes: tuple[str, ...]) -> SecretStr:
    """Return *value* if it can be read in one way only, so that no part of a password is ever taken for the host.

    Raises ValueError, which repeats nothing of it.
    """
    url = _URL.fullmatch(value.get_secret_value())
    is_mongodb = "mongodb" in schemes
    if url is None or url["scheme"] not in schemes or not url["authority"].rpartition("@")[2]:
        wanted = " or ".join(f"{scheme}://" for scheme in schemes)
        msg = f"must be a URL that starts with {wanted} and names a host, without blanks and line ends"
        raise ValueError(msg)
    credentials, _, hosts = url["authority"].rpartition("@")
    many_colons = is_mongodb and credentials.count(":") > 1  # AMQP reads them one way, the store's driver none
    if "@" in url["rest"] or "#" in url["rest"] or many_colons or _NOT_ENCODED.search(credentials):
        msg = "user and password must be percent-encoded: / as %2F, ? as %3F, # as %23, @ as %40, : as %3A, % as %25"
        raise ValueError(msg)
    listed = hosts.split(",") if is_mongodb else [hosts]
    if not all(_is_host(host) or (is_mongodb and _SOCKET.fullmatch(host)) for host in listed):
        msg = "must name its host as name or name:port; user and password before it end with @ and are percent-encoded"
        raise ValueError(msg)
    return value


def _is_host(text: str) -> bool:
    host = _HOST.fullmatch(text)
    return host is not None and int(host["port"] or 1) in range(1, _MAX_PORT + 1)


def checked_authorities(file: str) -> str:
    """Return *file* if it holds certificates that can be read. Raises ValueError."""
    try:
        ssl.create_default_context(cafile=file)
    except (OSError, ValueError):  # an SSLError is an OSError
        msg = "must be a readable PEM file of certificates"
        raise ValueError(msg) from None
    return file
