"""Laws of the check of a field: what is misread is told from what is trained."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import Problem, conventions, ground_truth, schedulers, velocity
from tests.fields import Gaussian
from tests.laws import ALL_SCHEDULERS, first_of

STD = 0.1
DATA = 0.4 + STD * np.random.default_rng(0).normal(size=(128, 16))
MAKERS = {
    "epsilon": velocity.from_epsilon,
    "data": velocity.from_data,
    "v": velocity.from_v,
    "denoiser": velocity.from_denoiser,
}
PATHS = {name: ALL_SCHEDULERS[name] for name in ("cond_ot", "cosine", "vp")}


def network(kind, scheduler):
    """The optimal network of a kind, for the data above."""
    return getattr(Gaussian(scheduler, std=STD), kind)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", ALL_SCHEDULERS)
def test_the_optimal_network_meets_the_linear_guess(kind, name):
    """Of Gaussian data the posterior mean is linear, so the ratios are 1."""
    scheduler = ALL_SCHEDULERS[name]
    vf = MAKERS[kind](network(kind, scheduler), scheduler)
    found = conventions.check(vf, scheduler, DATA)
    assert found.as_trained
    np.testing.assert_allclose(found.error, found.linear, rtol=0.1)
    assert "The field denoises" in str(found)


@pytest.mark.parametrize(
    ("trained", "said"), [*itertools.permutations(["epsilon", "data", "v"], 2)]
)
@pytest.mark.parametrize("name", PATHS)
def test_another_prediction_is_seen(trained, said, name):
    scheduler = PATHS[name]
    vf = MAKERS[said](network(trained, scheduler), scheduler)
    found = conventions.check(vf, scheduler, DATA)
    assert not found.as_trained
    assert "does not denoise" in str(found)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("name", PATHS)
def test_another_time_is_seen(kind, name):
    scheduler = PATHS[name]
    right = network(kind, scheduler)
    for wrong in (
        lambda t, x: right(1 - t, x),
        lambda t, x: right(jnp.clip(1 - t / 1000, 0.0, 1.0), x),
    ):
        assert not conventions.check(
            MAKERS[kind](wrong, scheduler), scheduler, DATA
        ).as_trained


def test_another_scheduler_is_seen():
    cond_ot, vp = schedulers.cond_ot(), schedulers.vp()
    vf = velocity.from_epsilon(network("epsilon", vp), cond_ot)
    assert not conventions.check(vf, cond_ot, DATA).as_trained
    assert not conventions.check(network("velocity", cond_ot), vp, DATA).as_trained


MODES = np.random.default_rng(2).choice([-1.0, 1.0], size=(128, 1))
BIMODAL = MODES + STD * np.random.default_rng(3).normal(size=(128, 4))


def of_two_modes(scheduler):
    """E[x1 | x] of an equal mixture of N(-1, STD^2 I) and N(1, STD^2 I)."""

    def data(t, x):
        alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
        variance = (alpha * STD) ** 2 + sigma**2
        mode = jnp.tanh(alpha * jnp.sum(x, axis=1, keepdims=True) / variance)
        return mode + alpha * STD**2 / variance * (x - alpha * mode)

    return velocity.from_data(data, scheduler)


MISREAD = {
    "zero": lambda vf: lambda t, x: 0 * x,
    "half": lambda vf: lambda t, x: 0.5 * vf(t, x),
    "double": lambda vf: lambda t, x: 2 * vf(t, x),
    "later": lambda vf: lambda t, x: vf(jnp.minimum(t + 0.1, 0.999), x),
    "shifted": lambda vf: lambda t, x: vf(t / (t + 3 * (1 - t)), x),
    "scaled": lambda vf: lambda t, x: vf(t, 1.5 * x),
}


@pytest.mark.parametrize("name", first_of(PATHS, "cosine"))
def test_data_of_two_modes_tell_more_than_a_linear_guess(name):
    scheduler = PATHS[name]
    right = of_two_modes(scheduler)
    found = conventions.check(right, scheduler, BIMODAL)
    assert found.as_trained
    assert min(found.rescaled) > 0.95
    for wrong in MISREAD.values():
        found = conventions.check(wrong(right), scheduler, BIMODAL)
        assert not found.as_trained, found
        assert "does not denoise" in str(found)


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("name", ALL_SCHEDULERS)
def test_the_slope_of_the_velocity_is_one(name, factor):
    """Of any data: E[target u] = E[u^2] where u = E[target | x]."""
    scheduler = ALL_SCHEDULERS[name]
    right = Gaussian(scheduler, std=STD).velocity
    assert conventions.check(right, scheduler, DATA).as_trained
    assert not conventions.check(
        lambda t, x: factor * right(t, x), scheduler, DATA
    ).as_trained


@pytest.mark.parametrize("count", [8, 24])
def test_few_data_are_no_reason_to_refuse(count):
    scheduler = schedulers.cond_ot()
    field = Gaussian(scheduler, std=STD).velocity
    assert conventions.check(field, scheduler, DATA[:count]).as_trained


@pytest.mark.exhaustive
def test_pairs_unlike_the_data_are_said_to_be():
    v, epsilon = (network(kind, PATHS["vp"]) for kind in ("v", "epsilon"))

    def predicted(misread, t, x):
        return jnp.where(misread, epsilon(t, x), v(t, x))

    right, wrong = (
        velocity.from_v(
            jax.tree_util.Partial(predicted, jnp.asarray(misread)), PATHS["vp"]
        )
        for misread in (False, True)
    )
    x0 = np.random.default_rng(1).normal(size=(32, 16))
    ground_truth.pairs(Problem(right, data=DATA), x0)
    with pytest.warns(UserWarning, match="the solved samples have mean .*, the data"):
        ground_truth.pairs(Problem(wrong, data=DATA), x0)


def test_bad_input_is_named():
    scheduler = schedulers.cond_ot()
    vf = Gaussian(scheduler).velocity
    with pytest.raises(ValueError, match="times must be a number in"):
        conventions.check(vf, scheduler, DATA, times=(0.5, 2.0))
    with pytest.raises(ValueError, match="data must be finite, sample 0"):
        conventions.check(vf, scheduler, DATA * np.nan)
    with pytest.raises(ValueError, match="must return the shape of x"):
        conventions.check(lambda t, x: x[:, :1], scheduler, DATA)
