"""Conditional flow matching (eq. 56): trains the network that a solver is made for."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from bns_jax import checkpoint, parallel, schedulers
from bns_jax.distill import Report
from bns_jax.distill.finite import RecentLosses
from bns_jax.distill.loop import Loop
from bns_jax.models.unet import UNet, UNetConfig
from bns_jax.pytree import on_host
from bns_jax.typing import Array
from experiments.data.digits import Images

_WARM_UP = 500


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the network is trained.

    Attributes:
      iterations: optimisation steps.
      batch: images per step.
      learning_rate: its peak, after a linear warm-up over 500 steps; a cosine
        brings it to 0.
      label_drop: probability of the null label, which guidance needs.
      ema: decay of the exponential moving average of the weights.
      evaluate_every: steps between measurements of the held-out loss.
      seed: of weights, noise, times and the order of the images.
    """

    iterations: int = 15_000
    batch: int = 128
    learning_rate: float = 1e-3
    label_drop: float = 0.15
    ema: float = 0.999
    evaluate_every: int = 500
    seed: int = 0


class PretrainState(NamedTuple):
    """Everything that a resumed run needs."""

    step: jax.Array
    params: Any
    opt_state: Any
    average: Any
    best: Any
    best_loss: jax.Array


class TrainedNetwork(NamedTuple):
    """The averaged weights of the best held-out loss, and what they reached."""

    params: Any
    figures: dict[str, float]


def flow_matching_loss(
    network: UNet,
    scheduler: schedulers.Scheduler,
    params: Any,
    key: jax.Array,
    images: Images,
    label_drop: float = 0.0,
    train: bool = False,
) -> jax.Array:
    """E ||u_t(x_t) - (sigma_t' x_0 + alpha_t' x_1)||^2 over one batch (eq. 56)."""
    x1, labels = map(jnp.asarray, images)
    time_key, noise_key, drop_key, dropout_key = jax.random.split(key, 4)
    batch = (x1.shape[0],)
    t = jax.random.uniform(time_key, batch)
    x0 = jax.random.normal(noise_key, x1.shape)
    dropped = jax.random.bernoulli(drop_key, label_drop, batch)
    labels = jnp.where(dropped, network.config.num_classes, labels)

    def column(values: Array) -> jax.Array:
        return jnp.reshape(values, (-1,) + (1,) * (x1.ndim - 1))

    x_t = column(scheduler.alpha(t)) * x1 + column(scheduler.sigma(t)) * x0
    target = column(scheduler.d_alpha(t)) * x1 + column(scheduler.d_sigma(t)) * x0
    u = network.apply(
        {"params": params}, t, x_t, labels, train=train, rngs={"dropout": dropout_key}
    )
    return jnp.mean(jnp.square(u - target))


def pretrain(
    config: UNetConfig,
    scheduler: schedulers.Scheduler,
    recipe: Recipe,
    images: Images,
    held_out: Images,
    directory: epath.PathLike | None = None,
    report: Report | None = None,
    mesh: Mesh | None = None,
    shard_weights: bool = False,
) -> TrainedNetwork:
    """Trains the network and keeps the average of the best held-out loss.

    Args:
      config: the architecture.
      scheduler: the Gaussian path to train on.
      recipe: the training.
      images: to learn from.
      held_out: to choose the iteration by.
      directory: where the state is saved at each evaluation, and resumed from.
      report: told at each evaluation, and asked whether to stop.
      mesh: devices to lay each batch over.
      shard_weights: whether large weights are laid over them too.

    Raises:
      ValueError: if the batch is larger than the data or the devices do not divide it,
        or ten losses in a row are not finite (all of them, where there are fewer):
        such steps are not taken, and the state is saved.
      Interrupted: if the report said stop; the state is saved.
    """
    parallel.check_divisible(recipe.batch, mesh)
    if recipe.batch > len(images.labels):
        raise ValueError(
            f"batch is larger than the data: {recipe.batch} > {len(images.labels)}"
        )
    network, optimizer = UNet(config), _optimizer(recipe)
    loss = functools.partial(flow_matching_loss, network, scheduler)
    lay = parallel.fsdp if shard_weights else parallel.replicate
    state = lay(_initial_state(network, optimizer, recipe, images), mesh)

    def batch(iteration: int) -> Images:
        return parallel.shard(_batch(images, recipe, iteration), mesh)

    with checkpoint.Checkpointer(directory) as saver:
        if found := saver.restore(state):
            state = found.state

        step = _step(loss, optimizer, recipe, state, mesh)
        held_out_loss = _held_out_loss(loss, held_out, recipe, mesh)
        loop = _loop(recipe, step, batch, held_out_loss, saver, report or Report())
        done = int(state.step)
        state = loop.run(state, done, done % recipe.evaluate_every == 0, _ignore)
    return _result(state)


def _loop(
    recipe: Recipe,
    step: Callable[[PretrainState, Images], tuple[PretrainState, jax.Array]],
    batch: Callable[[int], Images],
    held_out_loss: Callable[[Any], jax.Array],
    saver: checkpoint.Checkpointer,
    report: Report,
) -> Loop[PretrainState]:
    def save(state: PretrainState) -> None:
        saver.save(int(state.step), state)

    def measure(state: PretrainState) -> PretrainState:
        state = _keep_best(state, held_out_loss(state.average))
        save(state)
        note = f"held-out loss {float(state.best_loss):.4f}"
        report(int(state.step), recipe.iterations, note)
        return state

    return Loop(
        step=step,
        batch=batch,
        iterations=recipe.iterations,
        every=recipe.evaluate_every,
        measure=measure,
        save=save,
        fail=_fail,
        stop=report.stop,
        is_over=lambda: False,
        losses=RecentLosses(recipe.iterations),
    )


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    steps = max(recipe.iterations, _WARM_UP + 1)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, _WARM_UP, steps
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def _step(
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    state: PretrainState,
    mesh: Mesh | None,
) -> Callable[[PretrainState, Images], tuple[PretrainState, jax.Array]]:
    """The jitted step; its state stays laid out as this one is."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        out_shardings=None if mesh is None else (shardings, parallel.replicated(mesh)),
    )
    def step(state: PretrainState, batch: Images) -> tuple[PretrainState, jax.Array]:
        key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
        value, gradient = jax.value_and_grad(loss)(
            state.params, key, batch, recipe.label_drop, True
        )
        finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # Early on the average follows the weights more closely.
        decay = jnp.minimum(recipe.ema, (1.0 + state.step) / (10.0 + state.step))
        average = optax.incremental_update(params, state.average, 1.0 - decay)
        new = state._replace(params=params, opt_state=opt_state, average=average)
        new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        return new._replace(step=state.step + 1), jnp.where(finite, value, jnp.nan)

    return step


def _held_out_loss(
    loss: Callable[..., jax.Array], held_out: Images, recipe: Recipe, mesh: Mesh | None
) -> Callable[[Any], jax.Array]:
    """The loss on images that are not learned from."""

    @functools.partial(jax.jit, out_shardings=parallel.replicated(mesh))
    def held_out_loss(params: Any) -> jax.Array:
        # The same times and noise at each measurement, 16 of them per image.
        keys = jax.random.split(jax.random.key(recipe.seed + 1), 16)
        return jnp.mean(jax.lax.map(lambda key: loss(params, key, held_out), keys))

    return held_out_loss


def _keep_best(state: PretrainState, measured: jax.Array) -> PretrainState:
    if not measured < state.best_loss:
        return state
    # A copy: the step donates its state, the average included.
    best = jax.tree.map(jnp.copy, state.average)
    return state._replace(best=best, best_loss=measured)


def _fail(state: PretrainState, done: int, count: int) -> NoReturn:
    del state
    raise ValueError(
        f"no loss of the steps {done - count + 1} to {done} of pretraining was finite; "
        "the state before them is saved"
    )


def _ignore(loss: jax.Array) -> None:
    """What a step lost is not kept: the next run looks at its own."""
    del loss


def _result(state: PretrainState) -> TrainedNetwork:
    figures = {
        "weights": sum(leaf.size for leaf in jax.tree.leaves(state.best)),
        "iterations": int(state.step),
        "held_out_loss": float(state.best_loss),
    }
    return TrainedNetwork(jax.tree.map(on_host, state.best), figures)


def _initial_state(
    network: UNet,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    images: Images,
) -> PretrainState:
    example = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), images)
    key = jax.random.key(recipe.seed)
    params = network.init(key, 0.5, example.pixels, example.labels)["params"]

    def copy() -> Any:
        return jax.tree.map(jnp.copy, params)

    return PretrainState(
        jnp.zeros((), jnp.int32),
        params,
        optimizer.init(params),
        copy(),
        copy(),
        jnp.asarray(math.inf),
    )


def _batch(images: Images, recipe: Recipe, iteration: int) -> Images:
    """The images of one step; a function of the step alone, so that runs resume."""
    rng = np.random.default_rng((recipe.seed, iteration))
    chosen = rng.choice(len(images.labels), recipe.batch, replace=False)
    return Images(images.pixels[chosen], images.labels[chosen])
