"""Starting JAX's distributed runtime, by which the processes of a run meet."""

from __future__ import annotations

import glob
import importlib.util
import os
import socket
import time

import jax

_CONNECT_SECONDS = 5.0


def start(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 120,
) -> None:
    """Joins the processes of one run; call it before anything else of jax.

    Without arguments it does nothing, except on a Cloud TPU, where the machines know of
    each other.

    Args:
      coordinator_address: host:port at which process 0 listens.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      timeout: seconds to wait for the others.

    Raises:
      ValueError: if only some of the three are given, one is out of range, or nobody
        answers at the address in time.
    """
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
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id must lie from 0 to {num_processes - 1}, got {process_id}"
        )
    host, port = _address(coordinator_address)
    if process_id != 0:
        _wait_for(host, port, timeout)
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        initialization_timeout=timeout,
    )


def _on_cloud_tpu() -> bool:
    # To jax an empty JAX_PLATFORMS is none.
    platforms = (os.environ.get("JAX_PLATFORMS") or "tpu").split(",")
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    installed = importlib.util.find_spec("libtpu") is not None
    return "tpu" in platforms and installed and bool(chips)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(f"coordinator_address must be host:port, got {text!r}")
    return host.strip("[]"), int(port)


def _wait_for(host: str, port: int, timeout: float) -> None:
    """Waits until somebody listens: jax itself ends the process where nobody does."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), _CONNECT_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"no coordinator answers at {host}:{port} after {timeout:g} s "
                    f"({error}); is process 0 running, and is the port open?"
                ) from error
        time.sleep(0.2)
