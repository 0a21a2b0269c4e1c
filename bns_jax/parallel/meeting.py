"""The processes of a run meet at process 0 before jax starts, and stay connected.

jax's own service ends a process from C++, after a minute or two and with a dump, where
a number is given twice, somebody does not come, or somebody dies. So they count
themselves first, over plain sockets at the same address: an error is then a line. The
sockets stay open, so that everybody knows at once when one of them is gone.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable

from bns_jax.parallel.connection import (
    CONNECT_SECONDS,
    Line,
    Message,
    connected,
    listening,
)

_BEAT_SECONDS = 5.0
_SILENT_SECONDS = 30.0
_FAREWELL_SECONDS = 5.0


class Meeting:
    """The connections of one process: of process 0 to all, of the others to it."""

    def __init__(self, process_id: int, count: int, address: str):
        """Of a process that has met nobody yet.

        Args:
          process_id: which one it is.
          count: of all of them.
          address: host:port of process 0, for people.
        """
        self._id, self._count, self._address = process_id, count, address
        self._lines: dict[int, Line] = {}
        self._left: set[int] = set()
        self._closed = threading.Event()

    def host(self, host: str, port: int, timeout: float) -> None:
        """Process 0 waits for the others.

        Args:
          host: of this process, as others know it.
          port: to listen at.
          timeout: in seconds.

        Raises:
          ValueError: if the port is taken, somebody does not come in time, or two come
            for one. All that are there are told.
        """
        deadline = time.monotonic() + timeout
        if self._count == 1:
            return
        with listening(host, port, self._address) as listener:
            try:
                while len(self._lines) < self._count - 1:
                    self._welcome(listener, deadline, timeout)
            except ValueError as error:
                self._tell({"error": str(error)})
                self.close()
                raise
        self._tell({"welcome": self._count})

    def _welcome(
        self, listener: socket.socket, deadline: float, timeout: float
    ) -> None:
        listener.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            line = Line(listener.accept()[0])
        except TimeoutError:
            missing = [str(i) for i in range(1, self._count) if i not in self._lines]
            raise ValueError(
                f"process {', '.join(missing)} of {self._count} did not come to "
                f"{self._address} within {timeout:g} s"
            ) from None
        try:
            greeting = line.wait(time.monotonic() + CONNECT_SECONDS) or {}
        except ValueError:
            greeting = {}
        number, count = greeting.get("process"), greeting.get("of")
        if not isinstance(number, int):
            line.socket.close()  # A stranger.
            return
        reason = ""
        if count != self._count:
            reason = (
                f"process {number} expects {count} processes, process 0 {self._count}"
            )
        elif number in self._lines:
            reason = f"two processes came as number {number} of {self._count}"
        if reason:
            line.send({"error": reason})
            line.socket.close()
            raise ValueError(reason)
        self._lines[number] = line

    def join(self, host: str, port: int, timeout: float) -> None:
        """Another process comes to process 0, and waits until all have.

        Args:
          host: of process 0.
          port: that it listens at.
          timeout: in seconds.

        Raises:
          ValueError: if nobody answers in time, somebody else does, or process 0 says
            what is wrong.
        """
        deadline = time.monotonic() + timeout
        where = f"{host}:{port}"
        while True:
            line = Line(connected(host, port, deadline, timeout))
            line.send({"process": self._id, "of": self._count})
            try:
                answer = line.wait(deadline + CONNECT_SECONDS)
            except ValueError:
                answer = {"error": ""}
            if answer is not None:
                break
            line.socket.close()
            if time.monotonic() > deadline:
                raise ValueError(
                    f"process 0 at {where} did not let process {self._id} in within "
                    f"{timeout:g} s; are there two of that number?"
                )
            time.sleep(0.2)
        if "welcome" not in answer:
            line.socket.close()
            raise ValueError(
                answer.get("error")
                or f"what answers at {where} is no process 0 that waits for others: "
                f"has the run begun, with another process {self._id}?"
            )
        self._lines[0] = line

    def watch(self, lost: Callable[[str], None]) -> None:
        """Calls `lost` from a thread, with a line, when a process dies or fails.

        Args:
          lost: lost(line) says which process is gone, and why if it is known.
        """
        for line in self._lines.values():
            line.socket.settimeout(_BEAT_SECONDS)
            line.heard = time.monotonic()
        threading.Thread(target=self._keep_watching, args=(lost,), daemon=True).start()

    def _keep_watching(self, lost: Callable[[str], None]) -> None:
        beaten = 0.0
        while not self._closed.is_set():
            if time.monotonic() > beaten + _BEAT_SECONDS:
                beaten = time.monotonic()
                self._tell(None)
            reason = self._listen()
            if reason and not self._closed.is_set():
                self._tell({"failed": reason})
                lost(reason)
                return

    def _listen(self) -> str:
        """Waits a moment; returns what went wrong, if something did."""
        sockets = {line.socket: number for number, line in self._present().items()}
        if not sockets:
            self._closed.wait(1.0)
            return ""
        try:
            readable, _, _ = select.select(list(sockets), [], [], 1.0)
        except (OSError, ValueError):  # Closed meanwhile.
            return ""
        heard = (self._hear(sockets[ready]) for ready in readable)
        return next(filter(None, heard), "") or self._silence()

    def _present(self) -> dict[int, Line]:
        """The connections to those who have not left."""
        return {n: line for n, line in self._lines.items() if n not in self._left}

    def _hear(self, number: int) -> str:
        """Takes what one process has sent; returns what went wrong there."""
        try:
            messages = self._lines[number].receive()
        except ValueError:
            messages = None
        if messages is None:
            return f"{self._name(number)} has died"
        for message in messages:
            if "failed" in message:
                return str(message["failed"])
            if "left" in message:
                self._left.add(number)
        return ""

    def _silence(self) -> str:
        """Who has sent no beat for too long."""
        latest = time.monotonic() - _SILENT_SECONDS
        for number, line in self._present().items():
            if line.heard < latest:
                return (
                    f"{self._name(number)} has said nothing for {_SILENT_SECONDS:g} s"
                )
        return ""

    def _name(self, number: int) -> str:
        where = f", which listened at {self._address}," if number == 0 else ""
        return f"process {number} of {self._count}{where}"

    def _tell(self, message: Message | None) -> None:
        for line in self._lines.values():
            line.send(message)

    def fail(self, reason: str) -> None:
        """Tells the others why this process ends, and waits until they have heard.

        Args:
          reason: one line.
        """
        self._closed.set()
        line = f"process {self._id} of {self._count} failed: {reason}"
        self._tell({"failed": line})
        self.close(_FAREWELL_SECONDS)

    def leave(self) -> None:
        """Tells the others that this process is done."""
        self._closed.set()
        self._tell({"left": self._id})

    def close(self, seconds: float = 0.0) -> None:
        """Ends the connections, once the others have, or after some seconds.

        Args:
          seconds: to wait for the others.
        """
        deadline = time.monotonic() + seconds
        for line in self._lines.values():
            with contextlib.suppress(OSError, ValueError):
                # A connection that is closed with beats unread loses what was sent.
                line.socket.shutdown(socket.SHUT_WR)
                while (left := deadline - time.monotonic()) > 0:
                    line.socket.settimeout(left)
                    if line.receive() is None:
                        break
            line.socket.close()
