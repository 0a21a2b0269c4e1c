"""Reads what a process writes to stderr, and leaves out the dump of its last moment.

    python dump_filter.py LINE <stderr

When process 0 is killed, jax's service ends the others from C++, with a message of its
own, the stack of a thread and no way to be asked first. Everything else passes; if such
a dump was all there was, LINE takes its place. It needs the standard library alone.
"""

from __future__ import annotations

import os
import re
import sys
from typing import BinaryIO

_SERVICE = re.compile(rb"[EW]\d{4} [\d:.]+ +\d+ (coordination_service|preemption_sync)")
_DUMP = re.compile(
    rb"F\d{4} [\d:.]+ +\d+ (client|coordination_service|preemption_sync)"
)
_NOISE = re.compile(rb"W\d{4} [\d:.]+ +\d+ preemption_notifier")
_OURS = b"error: "


def start(line: str) -> None:
    """Puts the filter between this process and its stderr.

    Args:
      line: instead of a dump.
    """
    import subprocess
    import warnings

    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # It outlives this process, and nobody waits for it.
        warnings.simplefilter("ignore", ResourceWarning)
        # Of a session of its own, so that Ctrl-C does not end it first.
        subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, line],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    sys.stderr.flush()
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)


def copy(source: BinaryIO, target: BinaryIO, line: bytes) -> None:
    """Copies line by line, as they come."""
    held: list[bytes] = []
    is_dump = has_ended = False
    for text in source:
        if _NOISE.match(text):
            continue
        has_ended = has_ended or text.startswith(_OURS)
        is_dump = is_dump or _DUMP.match(text) is not None
        if held or is_dump or _SERVICE.match(text):
            # What follows may belong to it; our own line does not.
            held.append(b"" if text.startswith(_OURS) else text)
        if not held or text.startswith(_OURS):
            target.write(text)
            target.flush()
    if not is_dump:
        target.write(b"" if has_ended else b"".join(held))
    elif not has_ended:
        target.write(_OURS + line + b"\n")
    target.flush()


if __name__ == "__main__":
    copy(sys.stdin.buffer, sys.stderr.buffer, os.fsencode(sys.argv[1]))
