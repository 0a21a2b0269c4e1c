"""Problems whose answers are known in closed form, for pairs and for training.

Data are independent Gaussians N(MEAN, STD^2), one per entry. On the path of any
scheduler x_t is then N(alpha MEAN, alpha^2 STD^2 + sigma^2), the exact velocity is
affine in x, and its flow keeps the standardised sample constant.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from bns_jax import Problem, identity, schedulers, velocity
from bns_jax.pairs import Pairs
from bns_jax.reference import Reference

from .fields import wavy

MEAN = np.array([0.5, -1.0, 0.3])
STD = np.array([0.5, 1.0, 0.2])


def noise(count, seed=0, scale=1.0, dtype=np.float64):
    shape = (count, len(MEAN))
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def flow(scheduler, x0, t):
    """x(t) for the exact flow from x(0) = x0, in float64."""

    def moments(t):
        alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
        return alpha * MEAN, np.sqrt((alpha * STD) ** 2 + sigma**2)

    (mean_0, std_0), (mean_t, std_t) = moments(0.0), moments(t)
    return mean_t + std_t * (np.asarray(x0, np.float64) - mean_0) / std_0


def _gaussian(x):
    """MEAN and STD in the dtype of x, with the rank of a batch."""
    return jnp.asarray(MEAN[None], x.dtype), jnp.asarray(STD[None], x.dtype)


def _conditional(alpha, sigma, x):
    """E[data | x] and E[noise | x] where x = alpha data + sigma noise."""
    mean, std = _gaussian(x)
    residual = (x - alpha * mean) / ((alpha * std) ** 2 + sigma**2)
    return mean + alpha * std**2 * residual, sigma * residual


@functools.cache
def model(prediction, scheduler):
    """The optimal network of a kind, as a velocity field that knows its scheduler."""

    def network(t, x):
        alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
        data, noise = _conditional(alpha, sigma, x)
        return {
            "epsilon": noise,
            "data": data,
            "v": alpha * noise - sigma * data,
        }[prediction]

    def denoiser(sigma, x):
        # Like a real one it reads log(sigma), which must stay finite.
        return _conditional(1.0, sigma, x)[0] + 0.0 * jnp.log(sigma)

    if prediction == "denoiser":
        return velocity.from_denoiser(denoiser, scheduler)
    return getattr(velocity, f"from_{prediction}")(network, scheduler)


@functools.cache
def plain(scheduler):
    """The exact velocity as a bare function, which hides its scheduler.

    d/dt of mean and variance: u = mean' + (variance' / 2 variance) (x - mean).
    """

    def field(t, x):
        alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
        d_alpha, d_sigma = scheduler.d_alpha(t), scheduler.d_sigma(t)
        mean, std = _gaussian(x)
        variance = (alpha * std) ** 2 + sigma**2
        growth = (alpha * d_alpha * std**2 + sigma * d_sigma) / variance
        return d_alpha * mean + growth * (x - alpha * mean)

    return field


def shifted_field(shift, t, x, label):
    """The cond-OT field of data whose mean moves by shift[label], for two classes."""
    mean, std = _gaussian(x)
    mean = mean + shift[label]
    variance = (t * std) ** 2 + (1 - t) ** 2
    return mean + (t * std**2 - (1 - t)) / variance * (x - t * mean)


def shifted_pairs(shift, count, seed=0):
    """Exact pairs of `shifted_field`."""
    x0 = noise(count, seed)
    label = np.arange(count) % 2
    x1 = MEAN + np.asarray(shift)[label] + STD * x0
    times = np.array([0.0, 1.0])
    return Pairs(x0, x1, (label,), np.ones(count, int), times, np.stack([x0, x1]))


def shifted_problem():
    """A field with weights and a condition, and pairs to train and to validate on."""
    shift = np.array([[0.0, 0.0, 0.0], [1.0, 0.5, -0.5]])
    field = jax.tree_util.Partial(shifted_field, jnp.asarray(shift))
    return field, shifted_pairs(shift, 64, seed=1), shifted_pairs(shift, 40, seed=2)


SCHEDULERS = {
    "cond_ot": schedulers.cond_ot(),
    "cosine": schedulers.cosine(),
    "vp": schedulers.vp(),
    "ve": schedulers.ve(),
}


def wavy_pairs(count, seed=0, dtype=np.float64):
    """Pairs of `fields.wavy`, which no solver meets exactly; by another integrator."""
    x0, times = noise(count, seed), np.linspace(0.0, 1.0, 21)
    solution = solve_ivp(
        wavy, (0.0, 1.0), x0.ravel(), "DOP853", times, rtol=1e-11, atol=1e-11
    )
    path = solution.y.T.reshape(len(times), *x0.shape).astype(dtype)
    return Pairs(x0.astype(dtype), path[-1], (), np.ones(count, int), times, path)


def wavy_problem(dtype=np.float64):
    """A nonlinear field, and pairs to train and to validate on."""
    return (
        wavy,
        wavy_pairs(64, seed=1, dtype=dtype),
        wavy_pairs(40, seed=2, dtype=dtype),
    )


def what_differs(field, other, x0, *args):
    """Why a folder of pairs of one field is not one of the other, in order."""
    count = len(jax.tree.leaves(x0)[0])
    there, here = (
        Reference.of(Problem.of(vf), count, None, 1e-5, 1e-5, "highest").facts(x0, args)
        for vf in (field, other)
    )
    return identity.differences(there, here)
