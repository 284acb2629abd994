"""Opening a port before anything else begins; apart from the server, which takes its time to load."""

from __future__ import annotations

import socket
from typing import Final

KERNEL_QUEUE: Final = 1024
_MAX_PORT: Final = 65_535


class ListenError(Exception):
    """A port cannot be opened. The text is half a sentence: which one, and why."""


def listen(host: str, port: int) -> socket.socket:
    """Open *port* of *host*, 0 for any free one, so that it is known to be ours before anything else begins.

    Raises `ListenError`.
    """
    try:
        return _open(host, port)
    except (OSError, UnicodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "there is no such address"
        raise ListenError(f"port {port} of {host} cannot be opened: {reason.partition(' (')[0]}") from None


def _open(host: str, port: int) -> socket.socket:
    if not 0 <= port <= _MAX_PORT:
        raise OSError(None, f"there are {_MAX_PORT} ports")
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return socket.create_server((address[0], port), family=family, backlog=KERNEL_QUEUE)
