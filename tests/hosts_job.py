"""One small job of everything that runs over devices; also a process of several.

    python -m tests.hosts_job PROCESS_ID PORT FOLDER

runs it as one of two processes with four devices each; process 0 leaves the results.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import Problem, distill, families, ground_truth, parallel, solvers
from tests import searches

NFE, STEPS, STOPPED_AT = 2, 10, 5
WIDTH = 8


def field(weights, t, x, label):
    """A network of one layer whose weights the devices divide."""
    hidden = jnp.tanh(jnp.dot(x, weights.astype(x.dtype), precision="highest"))
    return hidden * (1 + label[:, None].astype(x.dtype) / 8) - x * t


def vector_field():
    weights = np.random.default_rng(1).normal(size=(WIDTH, WIDTH)) / 2
    return jax.tree_util.Partial(field, jnp.asarray(weights))


def make_pairs(mesh, count, seed, dtype=np.float64, vf=None):
    rng = np.random.default_rng(seed)
    x0 = rng.normal(size=(count, WIDTH)).astype(dtype)
    return ground_truth.pairs(
        Problem(vf or vector_field(), mesh=mesh),
        x0,
        rng.integers(3, size=count),
        rtol=1e-6,
        atol=1e-6,
        chunk=20,
    )


def fit(mesh, data, optimizer, **kwargs):
    return searches.fit(
        families.bns(solvers.euler(NFE)),
        vector_field(),
        *data,
        optimizer=optimizer,
        batch=16,
        iterations=STEPS,
        evaluate_every=STEPS,
        mesh=mesh,
        **kwargs,
    )


def stop_after(steps):
    asked = iter(range(steps + 1))
    return lambda: next(asked) == steps


def run(mesh, checkpoint=None):
    """What comes out, by name; continues the run in `checkpoint` too."""
    # 37 and 31: the devices divide neither the chunk nor what is left over.
    data = make_pairs(mesh, 37, 0), make_pairs(mesh, 31, 1)
    laid = parallel.fsdp(vector_field(), mesh, least=WIDTH)
    results = {
        "pairs": data[0].x1,
        "path": data[0].path,
        "pairs32": make_pairs(mesh, 37, 0, np.float32, laid).x1,
        "evaluate": distill.evaluate(solvers.euler(NFE), laid, data[1], mesh=mesh),
        "gauss_newton": np.concatenate(
            [leaf.ravel() for leaf in fit(mesh, data, distill.gauss_newton()).params]
        ),
    }
    adam = fit(mesh, data, distill.adam(1e-2), checkpoint=checkpoint)
    results["adam"] = np.concatenate([leaf.ravel() for leaf in adam.params])
    return results


def main(process_id, port, folder):
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_enable_x64", True)
    parallel.start(f"127.0.0.1:{port}", 2, process_id, timeout=300)
    refusal = ""
    try:
        parallel.agree({"guidance": "0.2", "seed": str(process_id)})
    except ValueError as error:
        refusal = str(error)
    saved = f"{folder}/checkpoint"
    results = run(parallel.data_mesh(), saved)
    assert len({*parallel.gather_text(refusal)}) == 1
    if parallel.is_main():
        np.savez(f"{folder}/results.npz", refusal=refusal, **results)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
