"""Connections between the processes of a run: JSON values, one a line."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

Message = dict[str, Any]
CONNECT_SECONDS = 5.0


class Line:
    """A connection that carries JSON values, one a line; an empty line is a beat."""

    def __init__(self, connection: socket.socket):
        """Takes over a connection.

        Args:
          connection: a socket that is connected.
        """
        self.socket = connection
        self.heard = time.monotonic()
        self._text = b""

    def send(self, message: Message | None) -> None:
        """Sends a message, or a beat; whoever is gone does not get it.

        Args:
          message: JSON values by name; None for a beat.
        """
        data = b"" if message is None else json.dumps(message).encode()
        with contextlib.suppress(OSError):
            self.socket.sendall(data + b"\n")

    def receive(self) -> list[Message] | None:
        """What has come since; None at the end of it.

        Returns:
          The messages, which may be none; beats are left out.

        Raises:
          ValueError: if it is something else.
        """
        try:
            data = self.socket.recv(2**16)
        except TimeoutError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self.heard = time.monotonic()
        *lines, self._text = (self._text + data).split(b"\n")
        found = [json.loads(line) for line in lines if line]
        if not all(isinstance(message, dict) for message in found):
            raise ValueError(f"expected messages of bns_jax, got {found}")
        return found

    def wait(self, deadline: float) -> Message | None:
        """The next message; None if the connection ends or time runs out.

        Args:
          deadline: of `time.monotonic`, in seconds.

        Returns:
          The message.

        Raises:
          ValueError: if what comes is no message.
        """
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            messages = self.receive()
            if messages is None:
                return None
            if messages:
                return messages[0]
        return None


def listening(host: str, port: int, address: str) -> socket.socket:
    """A socket that shares its port, as that of jax will, but with nobody yet.

    Args:
      host: of this process, as others know it.
      port: to listen at.
      address: of both, for people.

    Returns:
      The socket, bound and listening.

    Raises:
      ValueError: if somebody listens there, or it cannot.
    """
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), 1.0).close()
        raise ValueError(
            f"{address} is taken: somebody answers there already; choose another port, "
            "or is there a second process 0?"
        )
    six = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", port),
            family=socket.AF_INET6 if six else socket.AF_INET,
            dualstack_ipv6=six,
            reuse_port=hasattr(socket, "SO_REUSEPORT"),
        )
    except OSError as error:
        raise ValueError(f"process 0 cannot listen at {address}: {error}") from error


def connected(host: str, port: int, deadline: float, timeout: float) -> socket.socket:
    """A connection, once somebody listens.

    Args:
      host: of process 0.
      port: that it listens at.
      deadline: of `time.monotonic`, in seconds.
      timeout: in seconds, for the message.

    Returns:
      The socket.

    Raises:
      ValueError: if nobody does by the deadline; says so with the timeout.
    """
    while True:
        try:
            return socket.create_connection((host, port), CONNECT_SECONDS)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"no coordinator answers at {host}:{port} after {timeout:g} s "
                    f"({error}); is process 0 running, and is the port open?"
                ) from error
        time.sleep(0.2)
