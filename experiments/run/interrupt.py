"""Ctrl-C: the first one asks a program to save and end, the second ends it at once.

Python tells its main thread of a signal, which may be busy compiling for minutes. So a
thread of its own waits for them. It loads nothing but the standard library, for a
program is interrupted while it imports, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

CODE = 130
"""Of a program that ended at once, as shells have it."""

_FLUSH_SECONDS = 1.0


class _Wish:
    """What the first Ctrl-C does, None to end at once, and how many have come."""

    ask: Callable[[], None] | None = None
    count = 0


def watch() -> None:
    """Takes over Ctrl-C; call it from the main thread, before anything long."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    threading.Thread(target=_listen, args=(reader,), daemon=True).start()


@contextlib.contextmanager
def deferred(ask: Callable[[], None]) -> Iterator[None]:
    """Inside, the first Ctrl-C calls `ask`, from another thread, and no more."""
    _Wish.ask, _Wish.count = ask, 0
    try:
        yield
    finally:
        _Wish.ask = None


def _listen(reader: int) -> None:
    while numbers := os.read(reader, 16):
        for _ in range(numbers.count(signal.SIGINT)):
            _interrupt()


def _interrupt() -> None:
    _Wish.count += 1
    if _Wish.ask is None or _Wish.count > 1:
        _end()
    else:
        _say("\nstopping once all is saved; Ctrl-C again ends at once\n")
        _Wish.ask()


def _say(text: str) -> None:
    """To somebody who has pressed keys; a log has the last line."""
    if os.isatty(2):
        os.write(2, text.encode())


def _end() -> None:
    # What was printed goes out, unless nobody takes it.
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(_FLUSH_SECONDS)
    with contextlib.suppress(OSError):
        os.write(2, b"error: interrupted\n")
    os._exit(CODE)
