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


@contextlib.contextmanager
def _print_on_main() -> Iterator[None]:
    from bns_jax import parallel

    if parallel.is_main():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
