"""Loopback ports: a free one, or a clear refusal."""

from __future__ import annotations

import errno
import socket

from runhold.local.errors import PortInUse

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections linger in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def free_port(preferred: int = 0) -> int:
    """The preferred port if nobody listens there, otherwise any free one."""
    if preferred and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def require_free(port: int) -> None:
    """Raise PortInUse, naming the port and the way out, unless the port is free (0 always is)."""
    if port and not is_free(port):
        raise PortInUse(
            f"Port {port} is in use by another program: stop that, or choose another port (--port 0 picks a free one)."
        )
