"""Class labels that do not exist are refused where known, and nowhere another class."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bns_jax
from bns_jax import (
    conventions,
    distill,
    families,
    ground_truth,
    scale_time,
    schedulers,
    solvers,
    velocity,
)
from bns_jax.models import UNet, UNetConfig, labels, pretrained, published
from bns_jax.models.dit import DiT, DiTConfig
from bns_jax.pairs import Pairs
from experiments.models.mixture import Mixture
from tests.laws import first_of
from tests.published import KINDS, Fixture

UNET = UNetConfig((4, 4, 1), 5, channels=(8,), embedding=8, groups=2)
DIT = DiTConfig(
    image_size=4, num_classes=5, width=8, depth=1, heads=2, null_label=False
)
TINY = ["adm_tiny", "edm_ddpmpp_tiny", "edm_dhariwal_tiny", "dit_tiny", "sit_tiny"]


def random_params(network):
    """Of a fresh network many are 0: it would answer alike for all labels."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        network.shapes(),
    )


def of_network(network):
    def make():
        params = {"params": random_params(network)}
        return network.apply, (params,), network.config

    return make


def of_fixture(name):
    def make():
        fixture = Fixture(name)
        return (
            fixture.network.apply,
            ({"params": fixture.params},),
            (fixture.network.config),
        )

    return make


def of_field(guidance):
    """What `pretrained.load` gives: SiT, whose time runs from 0 to 1."""

    def make():
        fixture, origin = Fixture("sit_tiny"), published.look_up("sit_xl_2")
        origin = origin.changed(fixture.values)
        loaded = pretrained.Pretrained(
            origin, fixture.network, fixture.params, origin.scheduler
        )
        return loaded.field(guidance), (), loaded.config

    return make


def of_mixture():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 4, 4, 1)).astype(np.float32)
    mixture = Mixture.around(
        centres, np.arange(5, dtype=np.int32), 0.2, schedulers.cond_ot()
    )
    return Mixture.conditional, (mixture,), UNET


NETWORKS = {
    "unet": of_network(UNet(UNET)),
    "dit_without_null": of_network(DiT(DIT)),
    "mixture": of_mixture,
    "field": of_field(0.0),
    "guided_field": of_field(0.5),
} | {name: of_fixture(name) for name in TINY}
"""Every class-conditional network: () -> its function, what comes first, config."""

EACH = list(NETWORKS)


def test_no_network_is_forgotten():
    assert {name.partition("_")[0] for name in TINY} == set(KINDS)


@functools.cache
def made(name):
    apply, first, config = NETWORKS[name]()
    return jax.tree_util.Partial(apply, *first), config


def images(config, count):
    x = np.random.default_rng(1).normal(size=(count, *config.image_shape))
    return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize("name", first_of(EACH, "unet", "dit_without_null"))
def test_a_label_that_does_not_exist_gives_nan_inside_of_jit(name):
    field, config = made(name)
    null = config.num_classes
    label = np.array([0, -1, null - 1, null + 1, 0, 2**31 - 1, 1, -null - 1], np.int32)
    x = images(config, len(label))
    out = jax.jit(lambda *given: field(jnp.float32(0.6), *given))(x, label)
    is_nan = np.isnan(np.asarray(out)).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(is_nan, [False, True] * 4)
    # The others stay what they are: nothing of their companions reaches them.
    assert np.isfinite(np.asarray(out)[::2]).all()


WRONG = {
    "too_few": np.zeros(1, np.int32),
    "one_for_all": np.int32(0),
    "of_two_axes": np.zeros((3, 1), np.int32),
    "floating": np.zeros(3, np.float32),
    "boolean": np.zeros(3, bool),
}


@pytest.mark.parametrize("name", first_of(EACH, "unet", "mixture", "dit_without_null"))
def test_what_are_no_labels_of_the_batch_is_refused_while_tracing(name):
    field, config = made(name)
    x = jax.ShapeDtypeStruct((3, *config.image_shape), np.float32)
    for label in WRONG.values():
        message = (
            r"labels must be integers, one per sample: expected shape \(3,\), got "
            rf"{label.dtype} of shape {re.escape(str(label.shape))}"
        )
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(field, jnp.float32(0.6), x, label)


@pytest.mark.parametrize("name", ["unet", "dit_without_null"])
def test_no_labels_are_refused_while_tracing(name):
    field, config = made(name)
    x = jax.ShapeDtypeStruct((3, *config.image_shape), np.float32)
    with pytest.raises(ValueError, match=r"expected labels \(batch,\), got none"):
        jax.eval_shape(lambda x: field(jnp.float32(0.6), x, None), x)


def test_without_classes_any_conditioning_passes():
    for args in ((), (np.zeros(3),), (None, "text")):
        labels.check_args(args, num_classes=0)
        with pytest.raises(ValueError, match="labels"):
            labels.check_args(args, num_classes=5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32, np.int64])
def test_labels_may_be_of_any_integer(dtype):
    """Also of one that cannot hold the number of classes."""
    network = UNet(UNetConfig((4, 4, 1), 300, channels=(8,), embedding=8, groups=2))
    x = jax.ShapeDtypeStruct((2, 4, 4, 1), np.float32)
    label = jax.ShapeDtypeStruct((2,), dtype)
    out = jax.eval_shape(
        network.apply, {"params": network.shapes()}, jnp.float32(0.5), x, label
    )
    assert out.shape == x.shape


def unreached(*given):
    raise AssertionError("the field is called")


class Network:
    """One whose labels are from 0 to 2, with a null label."""

    num_classes = 3

    def check_args(self, args):
        (label,) = args
        if np.any((label < 0) | (label > self.num_classes)):
            raise ValueError(f"labels are from 0 to {self.num_classes}")

    def __call__(self, *given):
        unreached()

    def apply(self, weights, *given):
        unreached()


class Module(Network):
    """A module that is a pytree, as those of NNX and Equinox are."""

    leaves = (jnp.ones(2),)

    def tree_flatten(self):
        return self.leaves, None

    @classmethod
    def tree_unflatten(cls, aux, leaves):
        return cls()


class ModuleWithFlags(Module):
    """One of which some leaves are no arrays."""

    leaves = (jnp.ones(2), "a flag")


for module in (Module, ModuleWithFlags):
    jax.tree_util.register_pytree_node_class(module)


def jitted():
    def field(t, x, label):
        unreached()

    field.check_args = Network().check_args
    return jax.jit(field)


WEIGHTS = {"w": jnp.ones(2)}
METHOD = jax.tree_util.Partial(Network().apply, WEIGHTS)
VP = schedulers.vp()
FIELDS = {
    "object": Network(),
    "method": METHOD,
    "partial": functools.partial(Network().apply, WEIGHTS),
    "partial_of_partial": jax.tree_util.Partial(METHOD),
    "given_first": jax.tree_util.Partial(lambda *given: unreached(), Network()),
    "module": Module(),
    "module_with_flags": ModuleWithFlags(),
    "jitted": jitted(),
    "epsilon": velocity.from_epsilon(METHOD, VP),
    "denoiser": velocity.from_denoiser(METHOD),
    "guided": velocity.guided(METHOD, METHOD, 0.5),
    "guided_epsilon": velocity.guided(
        velocity.from_epsilon(METHOD, VP), velocity.from_epsilon(METHOD, VP), 0.5
    ),
    "rescheduled": scale_time.RescheduledVelocity(
        velocity.from_epsilon(METHOD, VP), schedulers.cond_ot()
    ),
    "unconditional_alone": velocity.guided(unreached, METHOD, 0.5),
    "unet": jax.tree_util.Partial(
        UNet(UNetConfig((4, 4, 1), 3, channels=(8,), groups=2)).apply, WEIGHTS
    ),
}


def pairs_of(label, seed=0):
    x = (
        np.random.default_rng(seed)
        .normal(size=(len(label), 4, 4, 1))
        .astype(np.float32)
    )
    times = np.linspace(0, 1, 5)
    path = np.stack([x] * 5)
    return Pairs(x, x, (np.asarray(label),), np.ones(len(x), int), times, path)


GOOD, BAD = [0, 1, 2, 3] * 20, [0, 1, 2, 3] * 19 + [0, 1, 2, 4]
EULER = solvers.euler(2)
CALLS = {
    "pairs": lambda vf: ground_truth.pairs(vf, pairs_of(BAD).x0, np.array(BAD)),
    "fit": lambda vf: distill.fit(
        families.bns(EULER), vf, pairs_of(BAD), pairs_of(GOOD, seed=1)
    ),
    "evaluate": lambda vf: distill.evaluate(EULER, vf, pairs_of(BAD)),
    "greedy": lambda vf: distill.greedy(vf, pairs_of(BAD), 2),
    "compare": lambda vf: bns_jax.compare(vf, pairs_of(BAD), 2, names=["euler"]),
    "find": lambda vf: bns_jax.find(vf, pairs_of(BAD), pairs_of(GOOD, seed=1), 2),
    "conventions": lambda vf: conventions.check(
        vf, schedulers.cond_ot(), pairs_of(BAD).x0, np.array(BAD)
    ),
}


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize("field", list(FIELDS))
def test_all_labels_are_checked_before_the_field_is_called(field, call):
    with pytest.raises(ValueError, match=r"labels (run|are) from 0 to"):
        CALLS[call](FIELDS[field])


def test_the_labels_of_the_validation_are_checked_too():
    with pytest.raises(ValueError, match="labels are from 0 to 3"):
        distill.fit(families.bns(EULER), METHOD, pairs_of(GOOD), pairs_of(BAD, seed=1))


def test_a_scale_as_the_last_argument_is_no_label():
    field = velocity.guided(METHOD, METHOD, None)
    x, scale = pairs_of(BAD).x0, np.ones(len(BAD), np.float32)
    with pytest.raises(ValueError, match="labels are from 0 to 3"):
        ground_truth.pairs(field, x, np.array(BAD), scale)
