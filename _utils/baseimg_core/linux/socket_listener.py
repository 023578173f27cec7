"""Unix sockets: who listens."""

from __future__ import annotations

import socket
import struct

_PEER = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_TIMEOUT = 10  # seconds; a connection waits while the backlog is full


def listener(path: str) -> int:
    """
    Return the ID of the process that listens at a socket.

    Returns:
        The ID; 0 if the process has none here, because it is in another PID namespace.

    Raises:
        OSError: Nothing listens there.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT)
        connection.connect(path)
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(peer)[0])
