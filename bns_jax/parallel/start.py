"""Starting JAX's distributed runtime, by which the processes of a run meet."""

from __future__ import annotations

import glob
import importlib.util
import operator
import os
from collections.abc import Callable
from typing import Any

import jax

from bns_jax.parallel.meeting import Meeting

_meeting: Meeting | None = None


def start(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 120,
    lost: Callable[[str], None] | None = None,
) -> None:
    """Joins the processes of one run; call it before anything else of jax.

    Without arguments it does nothing, except on a Cloud TPU, where the machines know of
    each other.

    Args:
      coordinator_address: host:port at which process 0 listens.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      timeout: seconds to wait for the others.
      lost: called from a thread, with a line, when another process dies or fails; not
        on a Cloud TPU. What it should do is to end this one, which cannot go on.

    Raises:
      ValueError: if only some of the three are given or one is out of range; if nobody
        or somebody else answers at the address, the port is taken, a process does not
        come in time, or two have one number.
    """
    global _meeting
    given = (coordinator_address, num_processes, process_id)
    if all(value is None for value in given):
        if _on_cloud_tpu():
            jax.distributed.initialize(initialization_timeout=timeout)
        return
    if coordinator_address is None or num_processes is None or process_id is None:
        raise ValueError(
            "expected coordinator_address, num_processes and process_id together, got "
            f"{coordinator_address}, {num_processes}, {process_id}"
        )
    num_processes = _integer("num_processes", num_processes, 1)
    process_id = _integer("process_id", process_id, 0)
    if process_id >= num_processes:
        raise ValueError(
            f"process_id must lie from 0 to {num_processes - 1}, got {process_id}"
        )
    host, port = _address(coordinator_address)
    meeting = Meeting(process_id, num_processes, coordinator_address)
    (meeting.join if process_id else meeting.host)(host, port, timeout)
    _meeting = meeting
    if lost is not None:
        meeting.watch(lost)
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        initialization_timeout=timeout,
    )


def finish(failed: str = "") -> None:
    """Tells the other processes that this one ends, so that they do not miss it.

    Args:
      failed: why, if not in good order. They end then, too, before this returns.
    """
    if _meeting is not None:
        if failed:
            _meeting.fail(failed)
        else:
            _meeting.leave()


def _on_cloud_tpu() -> bool:
    # To jax an empty JAX_PLATFORMS is none.
    platforms = (os.environ.get("JAX_PLATFORMS") or "tpu").split(",")
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    installed = importlib.util.find_spec("libtpu") is not None
    return "tpu" in platforms and installed and bool(chips)


def _integer(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be an integer from {least}, got {value!r:.60}")
    return number


def _address(text: str) -> tuple[str, int]:
    host, _, port = str(text).rpartition(":")
    is_number = port.isascii() and port.isdigit()
    if not host or not is_number or not 0 < int(port) < 2**16:
        raise ValueError(f"coordinator_address must be host:port, got {text!r:.60}")
    return host.strip("[]"), int(port)
