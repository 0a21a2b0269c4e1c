"""Algorithm 2: gradient steps on theta by any optax transformation."""

from __future__ import annotations

import dataclasses
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from bns_jax import identity, kinds, scalars
from bns_jax.distill.optimizer import Goal, Optimizer, Trainer, Update

_FORWARD_AND_BACKWARD = 3
_PROBED_STEPS = 3


def adam(
    learning_rate: float = 5e-4,
    schedule: Literal["polynomial", "cosine"] = "polynomial",
) -> Optimizer:
    """Algorithm 2: Adam, 15,000 steps of 40 pairs, validated every 100.

    `recipe` gives those that were published.

    Args:
      learning_rate: its start.
      schedule: how it decays to 0 over the run: "polynomial" (linearly, the paper's
        image models) or "cosine" (its text and audio models).

    Returns:
      The recipe, for `fit`.

    Raises:
      ValueError: if the rate is not positive or the schedule unknown.
    """
    learning_rate = scalars.positive("learning_rate", learning_rate)
    if schedule not in ("polynomial", "cosine"):
        raise ValueError(
            f'schedule must be "polynomial" or "cosine", got {schedule!r:.60}'
        )

    trainer = partial(_adam, learning_rate, schedule)
    return Optimizer(trainer, f"adam({learning_rate}, {schedule})")


@lru_cache
def _adam(learning_rate: float, schedule: str, iterations: int) -> Trainer:
    """The same for equal settings, so that their steps are equal."""
    if schedule == "polynomial":
        rate = optax.polynomial_schedule(learning_rate, 0.0, 1, iterations)
    else:
        rate = optax.cosine_decay_schedule(learning_rate, iterations)
    return _first_order(optax.adam(rate))


def recipe(name: Literal["images", "text_to_image", "audio"]) -> Optimizer:
    """Algorithm 2 as published for one of the paper's three tasks (appendix D.1).

    Args:
      name: "images" (5e-4, polynomial, 15,000 steps of 40 pairs, validated every 100),
        "text_to_image" (1e-4, cosine, 20,000 of 8, every 200) or "audio" (1e-4,
        cosine, 15,000 of 40, every 5,000).

    Returns:
      The recipe, for `fit`.

    Raises:
      ValueError: if there is none of that name.
    """
    if name not in _RECIPES:
        raise ValueError(f"expected a recipe of {list(_RECIPES)}, got {name!r:.60}")
    return _RECIPES[name]


def with_optax(tx: optax.GradientTransformation, name: str = "with_optax") -> Optimizer:
    """Any optax transformation, with the batch and length of Algorithm 2.

    Args:
      tx: the transformation. What it evaluates for a line search, as `optax.lbfgs`
        does, is not among the forwards that are counted.
      name: what a checkpoint knows it by, beside its first three steps on a parabola:
        name settings that do not show there, such as where a schedule ends.

    Returns:
      The recipe, for `fit`.

    Raises:
      ValueError: if it is none.
    """
    expected = "a transformation of optax, such as optax.adam(1e-3)"
    kinds.check(expected, tx, optax.GradientTransformation)

    def trainer(iterations: int) -> Trainer:
        del iterations
        plain = _first_order(tx)
        return plain._replace(probe=partial(_probe, tx, plain.update))

    return Optimizer(trainer, name)


def _first_order(tx: optax.GradientTransformation) -> Trainer:
    return Trainer(tx.init, _Update(tx), _FORWARD_AND_BACKWARD)


@dataclasses.dataclass(frozen=True)
class _Update:
    """A step along the gradient, equal for one and the same transformation."""

    tx: optax.GradientTransformation

    def __call__(
        self, goal: Goal, theta: Any, opt_state: Any, key: jax.Array
    ) -> Update:
        del key
        # Line searches, of which there is one in L-BFGS, ask for the loss elsewhere.
        tx = optax.with_extra_args_support(self.tx)
        loss, gradient = jax.value_and_grad(goal)(theta)
        # Optax raises floats to a count of steps, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, new_state = tx.update(
                gradient,
                opt_state,
                theta,
                value=loss,
                grad=gradient,
                value_fn=goal,
            )
        new_theta = optax.apply_updates(theta, updates)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(new_theta))
        new_theta, new_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (new_theta, new_state),
            (theta, opt_state),
        )
        return Update(new_theta, new_state, loss, ~finite)


def _probe(tx: optax.GradientTransformation, update: Any, theta: Any) -> Any:
    """Three steps downhill, each on another parabola: they tell transformations apart.

    On one alone the gradient hardly changes, and Adam's moments forget nothing.
    """

    def parabola(k: int, moved: Any) -> jax.Array:
        def term(moved: jax.Array, at: jax.Array) -> jax.Array:
            away = jnp.cos(jnp.arange(at.size, dtype=at.dtype) + 2.0 * k)
            return jnp.sum((moved - at - away.reshape(at.shape)) ** 2)

        return sum(jax.tree.leaves(jax.tree.map(term, moved, theta)))  # type: ignore[return-value]

    @jax.jit
    def steps(theta: Any) -> Any:
        moved, state, key = theta, tx.init(theta), jax.random.key(0)
        for k in range(_PROBED_STEPS):
            moved, state, *_ = update(partial(parabola, k), moved, state, key)
        return jax.tree.map(jnp.subtract, moved, theta)

    return identity.probe(steps(theta))


_RECIPES = {
    "images": adam(5e-4, "polynomial"),
    "text_to_image": dataclasses.replace(
        adam(1e-4, "cosine"), batch=8, iterations=20_000, evaluate_every=200
    ),
    "audio": dataclasses.replace(adam(1e-4, "cosine"), evaluate_every=5_000),
}
