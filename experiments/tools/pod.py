"""Compiles for a TPU pod slice without having one, and shows what it takes there.

    python -m experiments.tools.pod --topology=v5e:4x4

needs the package libtpu. It prints, for ground-truth pairs, sampling and both training
steps of the digits model, the memory per device and what the devices send each other.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import sys

from experiments.run import cli
from experiments.run.config import Config, option

_COLUMNS = (
    "program",
    "code MB",
    "arguments MB",
    "temporaries MB",
    "collectives",
    "bytes sent",
    "at most",
    "float64",
)


@dataclasses.dataclass(frozen=True)
class PodConfig(Config):
    """The slice, and what runs there."""

    topology: str = option("v5e:4x4", "Of the TPU slice.")
    nfe: int = option(8, "Evaluations of the solver.", least=1)
    batch: int = option(256, "Samples; the number of chips divides it.", least=1)


def main(config: PodConfig) -> None:
    """Prints the table."""
    # What libtpu would otherwise ask the machine that it runs on; before jax is loaded.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import numpy as np
    from jax.experimental import topologies

    from bns_jax import ns, parallel, tables
    from experiments.models import catalogue
    from experiments.tools import programs

    try:
        topology = topologies.get_topology_desc(config.topology, "tpu")
        mesh = parallel.data_mesh(topology.devices)
        parallel.check_divisible(config.batch, mesh)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"error: --topology={config.topology}: {error}")
    model = catalogue.load("digits", 0.2)
    x0, args = model.draw(config.batch, np.random.default_rng(0))
    made = programs.lowered(model.field, x0, args, mesh, config.nfe, double=False)
    p = ns.num_params(config.nfe)
    found = [
        programs.figures(name, program.compile(), p) for name, program in made.items()
    ]
    print(
        f"{config.topology}, {mesh.size} chips, jax {jax.__version__}, libtpu "
        f"{importlib.metadata.version('libtpu')}, batch {config.batch}, "
        f"{config.nfe} evaluations, p = {p}\n"
    )
    print(tables.aligned([list(_COLUMNS), [], *(row.cells() for row in found)]))
    if not all(row.is_sound for row in found):
        sys.exit("error: a program sends more than it may, or holds float64")


if __name__ == "__main__":
    cli.launch(main, PodConfig)
