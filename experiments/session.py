"""How an experiment begins and ends: its processes, SIGTERM, errors as one line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from experiments import cli

if TYPE_CHECKING:
    from experiments.models import Model

_MOST_CPU_DEVICES = 8


@contextlib.contextmanager
def running() -> Iterator[None]:
    """The main block of an experiment.

    Errors that name what is wrong end it with that line and code 1, as does a package
    that is missing, such as the one for gs:// paths; SIGTERM ends it, once all is
    saved, with code 0.
    """
    from bns_jax import distill, parallel
    from experiments import preemption
    from experiments.progress import quiet

    quiet()
    _split_cpu()
    try:
        parallel.start(
            cli.COORDINATOR_ADDRESS.value,
            cli.NUM_PROCESSES.value,
            cli.PROCESS_ID.value,
            cli.START_TIMEOUT.value,
        )
        parallel.agree(cli.serialize_all())
        preemption.watch()
        with _print_on_main():
            yield
    except distill.Interrupted as error:
        if parallel.is_main():
            print(f"{error}; all is saved, the same command continues", flush=True)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def load_model(guidance: float | None = None, weights: str = "") -> Model:
    """The model that the flags name, on the devices that they name.

    Args:
      guidance: instead of --guidance.
      weights: instead of the shipped ones if --weights names none.
    """
    from experiments import models

    guidance = cli.GUIDANCE.value if guidance is None else guidance
    model = models.load(cli.MODEL.value, guidance, cli.WEIGHTS.value or weights or None)
    return model.on(cli.mesh(), cli.SHARD_WEIGHTS.value)


def _split_cpu() -> None:
    """Makes several devices of a CPU, if a small network runs and nothing else is said.

    Each works on a share of the batch by itself. As one device, XLA divides every
    operation among the cores, and those of a small network are too short for that.
    """
    import jax

    said = (
        cli.NUM_PROCESSES.value is not None
        or jax.config.jax_num_cpu_devices >= 0  # type: ignore[attr-defined]
        or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    )
    if said or cli.MODEL.value in cli.CHECKPOINTS:
        return
    cores = min(_cores(), _MOST_CPU_DEVICES)
    # A power of two, as batches often are multiples of one.
    jax.config.update("jax_num_cpu_devices", 2 ** (cores.bit_length() - 1))


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _print_on_main() -> Iterator[None]:
    from bns_jax import parallel

    if parallel.is_main():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
