"""What ground truth costs, at equal true error, beside diffrax and torchdiffeq."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import Problem, ground_truth
from bns_jax.lanes import begin
from bns_jax.reference import Reference
from experiments.models import catalogue

_COUNT, _CHUNK = 512, 64
_TOLERANCES = (3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
_USUAL, _FINE = 1e-5, 2e-7
_WIDTH = 256


class _Cost(NamedTuple):
    """What a pair costs, at some error.

    Attributes:
      error: of the ends.
      cost: field evaluations or seconds, of each pair.
    """

    error: float
    cost: float


def waiting() -> None:
    """Field evaluations per pair, those included that only wait for others."""
    print(
        f"\nfield evaluations per pair, waiting included, {_COUNT} pairs: lanes / "
        f"diffrax in chunks of {_CHUNK}"
    )
    for name in ("mixture", "digits"):
        model = catalogue.load(name, 0.5)
        x0, args = model.draw(_COUNT, np.random.default_rng(0))
        true = _lanes(model, x0, args, _FINE)[0]
        theirs, evaluations = _chunks(model, x0, args)
        chunks = _Cost(_rms(theirs, true), evaluations)
        ours = [
            _Cost(_rms(x1, true), cost)
            for x1, cost in (_lanes(model, x0, args, tol) for tol in _TOLERANCES)
        ]
        cost = _at(ours, chunks.error)
        print(
            f"  {name:8s} {cost:6.1f} / {chunks.cost:6.1f}  ratio "
            f"{cost / chunks.cost:.2f}  at a true error of {chunks.error:.1e} (rms)"
        )


class _Counted(Reference):
    """Counts what is evaluated, whether it is of use or not."""

    evaluations = 0

    def _run(self, program: Callable[..., Any], *args: Any) -> Any:
        stages = {"begin": 1, "advance": 6}.get(program.__name__, 0)
        lanes = args[0] if program is begin else args[0][0]
        type(self).evaluations += stages * len(jax.tree.leaves(lanes)[0])
        return super()._run(program, *args)


def _lanes(
    model: Problem, x0: np.ndarray, args: Any, tolerance: float
) -> tuple[np.ndarray, float]:
    """x(1) of all samples, and the evaluations of each."""
    _Counted.evaluations = 0
    solver = _Counted.of(model, len(x0), None, tolerance, tolerance, "highest")
    x1 = np.empty_like(x0)
    for rows, pairs in solver.solve(x0, args, np.arange(len(x0)), _CHUNK):
        x1[rows] = pairs.x1
    return x1, _Counted.evaluations / len(x0)


def _chunks(model: Problem, x0: np.ndarray, args: Any) -> tuple[np.ndarray, float]:
    """The same by diffrax alone: vmap, and the controller that it has by default."""

    def solve(x0: jax.Array, args: Any) -> tuple[jax.Array, jax.Array]:
        def rate(t: Any, x: jax.Array, args: Any) -> jax.Array:
            return model.field(t, x[None], *(leaf[None] for leaf in args))[0]

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(rate),
            diffrax.Dopri5(),
            0.0,
            1.0,
            0.01,
            x0,
            args,
            stepsize_controller=diffrax.PIDController(_USUAL, _USUAL),
            adjoint=diffrax.ForwardMode(),
        )
        return solution.ys[0], solution.stats["num_steps"]  # type: ignore[index]

    with jax.default_matmul_precision("highest"):
        run = jax.jit(jax.vmap(solve))
        parts = [np.arange(i, i + _CHUNK) for i in range(0, len(x0), _CHUNK)]
        solved = [run(x0[part], tuple(leaf[part] for leaf in args)) for part in parts]
    ends, steps = zip(*solved, strict=True)
    slowest = [np.max(each) for each in steps]
    return np.concatenate(ends), float(np.mean(slowest)) * 6 + 1


def peers() -> None:
    """CPU seconds per pair against torchdiffeq, where that is installed."""
    try:
        import torch
        from torchdiffeq import odeint
    except ImportError:
        print("\npairs against torchdiffeq: not installed, pip install .[parity]")
        return
    rng, size = np.random.default_rng(0), 64
    shapes = [(size + 1, _WIDTH), (_WIDTH, _WIDTH), (_WIDTH, size)]
    weights = [
        (2 * rng.normal(size=shape) / shape[0] ** 0.5).astype(np.float32)
        for shape in shapes
    ]
    x0 = rng.normal(size=(_COUNT, size)).astype(np.float32)

    def field(weights: Any, t: Any, x: jax.Array) -> jax.Array:
        h = jnp.concatenate([x, jnp.full_like(x[:, :1], 5 * t)], axis=1)
        for W in weights[:-1]:
            h = jnp.tanh(h @ W)
        return h @ weights[-1]

    ours = jax.tree_util.Partial(field, weights)
    theirs = [torch.as_tensor(W) for W in weights]

    def torch_field(t: Any, x: Any) -> Any:
        h = torch.cat([x, 5 * t * torch.ones_like(x[:, :1])], dim=1)
        for W in theirs[:-1]:
            h = torch.tanh(h @ W)
        return h @ theirs[-1]

    def by_torch(tolerance: float) -> np.ndarray:
        with torch.no_grad():
            times = torch.tensor([0.0, 1.0])
            start = torch.as_tensor(x0)
            return odeint(torch_field, start, times, rtol=tolerance, atol=tolerance)[
                -1
            ].numpy()

    def by_lanes(tolerance: float) -> np.ndarray:
        return ground_truth.pairs(
            ours,
            x0,
            rtol=tolerance,
            atol=tolerance,
            save_at=np.ones(1),
            chunk=_COUNT // 2,
            report=lambda *_: None,
        ).x1

    true = by_lanes(_FINE)
    peer = _timed(by_torch, _USUAL, true)
    mine = [_timed(by_lanes, tolerance, true) for tolerance in _TOLERANCES]
    ratio = peer.cost / _at(mine, peer.error)
    print(
        f"\npairs per CPU second, lanes / torchdiffeq's dopri5, a network of {_WIDTH} "
        f"features:\n  ratio {ratio:.1f}  at a largest true error of {peer.error:.1e}"
    )


def _timed(
    solve: Callable[[float], np.ndarray], tolerance: float, true: np.ndarray
) -> _Cost:
    """The largest error, and the CPU seconds of the quickest of three runs."""
    x1, seconds = solve(tolerance), []
    for _ in range(3):
        start = time.process_time()
        solve(tolerance)
        seconds.append(time.process_time() - start)
    return _Cost(float(np.max(np.abs(x1 - true))), min(seconds) / len(true))


def _rms(x: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(np.mean((x - true) ** 2)))


def _at(costs: list[_Cost], error: float) -> float:
    """The cost at an error, between those that were measured."""
    by_error = sorted(costs)
    errors, spent = zip(*by_error, strict=True)
    return float(np.exp(np.interp(np.log(error), np.log(errors), np.log(spent))))
