"""Laws of pretraining: what is not finite ends it, in time and not too soon."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import distill, schedulers
from bns_jax.distill import Report
from bns_jax.models import UNetConfig
from experiments.data.digits import Images
from experiments.models import pretrain
from tests.laws import first_of

IMAGES = Images(np.zeros((4, 2, 2, 1)), np.zeros(4, np.int32))


class OneWeight(nn.Module):
    """Compiles in no time."""

    config: UNetConfig

    @nn.compact
    def __call__(self, t, x, labels, train=False):
        return x * self.param("w", lambda key: jnp.ones(()))


@pytest.fixture
def bad_steps(monkeypatch):
    """The steps, from 0, whose images are not finite; of a very small network."""
    monkeypatch.setattr(pretrain, "UNet", OneWeight)
    steps = set()
    batch = pretrain._batch

    def spoilt(images, recipe, iteration):
        drawn = batch(images, recipe, iteration)
        spoil = np.nan if iteration in steps else 0
        return drawn._replace(pixels=drawn.pixels + spoil)

    monkeypatch.setattr(pretrain, "_batch", spoilt)
    return steps


def run(iterations, directory=None, report=None):
    recipe = pretrain.Recipe(iterations, batch=2, evaluate_every=9)
    path = schedulers.cond_ot()
    # Adam raises floats to integer powers.
    with jax.numpy_dtype_promotion("standard"):
        return pretrain.pretrain(
            UNetConfig(), path, recipe, IMAGES, IMAGES, directory, report
        )


@pytest.mark.parametrize("iterations", first_of([1, 3, 10], 3))
def test_a_run_of_losses_that_are_not_finite_ends_by_name(bad_steps, iterations):
    bad_steps.update(range(iterations))
    with pytest.raises(ValueError, match=f"no loss of the steps 1 to {iterations} of"):
        run(iterations)


@pytest.mark.exhaustive
def test_one_bad_loss_after_a_resume_ends_nothing(bad_steps, tmp_path):
    bad_steps.add(9)
    asked = iter([False] * 9 + [True])
    with pytest.raises(distill.Interrupted, match="before iteration 10"):
        run(11, tmp_path, Report(stop=lambda: next(asked)))
    assert run(11, tmp_path).figures["iterations"] == 11
