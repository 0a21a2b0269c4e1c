"""What the library costs beside what it calls: ratios measured side by side.

python -m experiments.tools.benchmarks
"""

from __future__ import annotations

import subprocess
import sys

import jax
import numpy as np

from experiments.run import cli
from experiments.run.config import Config
from experiments.run.progress import quiet
from experiments.tools import bench_pairs, bench_sampling, bench_training

_RUNS = 15


def main(config: Config) -> None:
    """Prints what sampling, training and ground truth take."""
    del config
    quiet()
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.device_kind}, {len(jax.devices())} device")
    bench_sampling.sampling_overhead()
    bench_sampling.dispatch_overhead()
    _import_overhead()
    bench_sampling.gradient_overhead()
    bench_sampling.backward_memory()
    bench_sampling.unrolled_gradients()
    bench_training.memory()
    bench_training.algebra()
    bench_pairs.peers()
    bench_pairs.waiting()


def _import_overhead() -> None:
    """`import bns_jax` after `import jax`, in fresh processes."""
    print(f"\nimport bns_jax where jax is imported, median of {_RUNS} runs")
    clock = "s = time.perf_counter(); import {}; print(time.perf_counter() - s)"
    script = "\n".join(["import time", clock.format("jax"), clock.format("bns_jax")])

    def seconds() -> list[float]:
        printed = subprocess.check_output([sys.executable, "-c", script])
        return [float(line) for line in printed.split()]

    theirs, ours = np.median([seconds() for _ in range(_RUNS)], axis=0)
    print(f"  {1e3 * ours:.0f} ms more than the {1e3 * theirs:.0f} ms of jax")


if __name__ == "__main__":
    cli.launch(main, Config)
