"""Telling an Erlang port mapper (epmd) of a node that reaches it by another port than its own."""

from __future__ import annotations

import socket
import struct

_REGISTER, _REGISTERED, _REGISTERED_LONG = 120, 121, 118
_NORMAL_NODE, _OVER_TCP = 77, 0
_NEWEST, _OLDEST = 6, 5
"""Versions of the protocol between nodes: 6 from Erlang 23 on."""
_TIMEOUT_SECONDS = 5.0


def introduced(port_mapper: int, name: str, port: int) -> socket.socket:
    """Enter node *name* at *port* into the port mapper; it stays there until the returned socket is closed.

    Raises OSError when the mapper does not take it, as when it knows the name already.
    """
    short = name.partition("@")[0].encode()
    request = struct.pack(">BHBBHHH", _REGISTER, port, _NORMAL_NODE, _OVER_TCP, _NEWEST, _OLDEST, len(short))
    request += short + struct.pack(">H", 0)
    connection = socket.create_connection(("127.0.0.1", port_mapper), timeout=_TIMEOUT_SECONDS)
    connection.sendall(struct.pack(">H", len(request)) + request)
    answer = connection.recv(16)
    if answer[:2] in {bytes((kind, 0)) for kind in (_REGISTERED, _REGISTERED_LONG)}:
        return connection
    connection.close()
    raise OSError(f"the port mapper does not take {name}: {answer!r}")
