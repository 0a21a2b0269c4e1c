"""Compiles for a TPU pod slice without having one, and shows what it takes there.

    python -m experiments.tools.pod --topology=v5e:4x4

needs the package libtpu. It prints, for ground-truth pairs, sampling and both training
steps of the digits model, the memory per device and what the devices send each other.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys

from absl import app, flags

from experiments.run import interrupt

_TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "Of the TPU slice.")
_NFE = flags.DEFINE_integer("nfe", 8, "Evaluations of the solver.", lower_bound=1)
_BATCH = flags.DEFINE_integer(
    "batch", 256, "Samples; the number of chips divides it.", lower_bound=1
)

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


def main(argv: list[str]) -> None:
    """Prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    # What libtpu would otherwise ask the machine that it runs on; before jax is loaded.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import numpy as np
    from jax.experimental import topologies

    from bns_jax import ns, parallel, tables
    from experiments.models import models
    from experiments.tools import programs

    try:
        topology = topologies.get_topology_desc(_TOPOLOGY.value, "tpu")
        mesh = parallel.data_mesh(topology.devices)
        parallel.check_divisible(_BATCH.value, mesh)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"error: --topology={_TOPOLOGY.value}: {error}")
    model = models.load("digits", 0.2)
    x0, args = model.draw(_BATCH.value, np.random.default_rng(0))
    made = programs.lowered(model.field, x0, args, mesh, _NFE.value, double=False)
    p = ns.num_params(_NFE.value)
    found = [
        programs.figures(name, program.compile(), p) for name, program in made.items()
    ]
    print(
        f"{_TOPOLOGY.value}, {mesh.size} chips, jax {jax.__version__}, libtpu "
        f"{importlib.metadata.version('libtpu')}, batch {_BATCH.value}, "
        f"{_NFE.value} evaluations, p = {p}\n"
    )
    print(tables.aligned([list(_COLUMNS), [], *(row.cells() for row in found)]))
    if not all(row.is_sound for row in found):
        sys.exit("error: a program sends more than it may, or holds float64")


if __name__ == "__main__":
    interrupt.launch(main)
