"""SIGTERM and Ctrl-C: what is in hand is finished and saved, then the run ends.

The cloud takes its machine back by SIGTERM, and leaves a moment to save.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from experiments.run import interrupt

_received: list[int] = []
_questions = itertools.count(1)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Inside, both are noted instead of died of; jax does so for several processes."""
    watch()
    with interrupt.deferred(_interrupted):
        yield


def watch() -> None:
    """Notes SIGTERM."""
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, lambda number, frame: _received.append(number))


def _interrupted() -> None:
    if jax.process_count() == 1:
        _received.append(signal.SIGINT)
    else:
        # jax hears it, and tells the others.
        os.kill(os.getpid(), signal.SIGTERM)


def asked() -> bool:
    """Whether to save and end now.

    All processes ask at the same places and get the same answer, whichever of them
    received the signal.
    """
    if jax.process_count() == 1:
        return bool(_received)
    return multihost_utils.reached_preemption_sync_point(next(_questions))
