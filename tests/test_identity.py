"""Laws of identity: what is kept on disk is never taken for something else."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from bns_jax import (
    distill,
    families,
    ground_truth,
    identity,
    schedulers,
    solvers,
    velocity,
)
from bns_jax.pairs import Pairs

from . import problems
from .laws import first_of


def decay(rate, t, x):
    return -rate * x


class Decay:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, t, x):
        return -self.rate * x

    def method(self, t, x):
        return -self.rate * x


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float

    def __call__(self, t, x):
        return -self.rate * x


class Module(eqx.Module):
    rate: float
    weights: jax.Array
    activation: object = jnp.tanh

    def __call__(self, t, x):
        return -self.rate * self.activation(x) * self.weights


class Network(nnx.Module):
    def __init__(self, rate):
        self.rate = nnx.Param(jnp.asarray(rate))

    def __call__(self, t, x):
        return -self.rate[...] * x


def _closure(rate):
    return lambda t, x: -rate * x


def _default(rate):
    return lambda t, x, rate=rate: -rate * x


def _jitted(rate):
    return jax.jit(_closure(rate))


def _nothing(t, x):
    return 0.0 * x


def _module_weights(rate):
    return Module(1.0, jnp.asarray(rate))


def _activation(rate):
    return Module(1.0, jnp.asarray(1.0), jnp.tanh if rate == 1.0 else jnp.sin)


PREDICTIONS = {
    name: getattr(velocity, f"from_{name}") for name in ("epsilon", "data", "v")
}
FIELDS = {
    "a closure": _closure,
    "a default": _default,
    "a jitted closure": _jitted,
    "an object": Decay,
    "a method": lambda rate: Decay(rate).method,
    "a dataclass": Settings,
    "functools.partial": lambda rate: functools.partial(decay, rate),
    "Partial of a number": lambda rate: jax.tree_util.Partial(decay, rate),
    "Partial of an array": lambda rate: jax.tree_util.Partial(decay, jnp.asarray(rate)),
    "Equinox, a static number": lambda rate: Module(rate, jnp.asarray(1.0)),
    "Equinox, an array": _module_weights,
    "Equinox, an activation": _activation,
    "NNX": Network,
    "guided": lambda rate: velocity.guided(_closure(rate), _nothing, 1.0),
    "guided by another": lambda rate: velocity.guided(_closure(1.0), _nothing, rate),
    "the unconditional one": lambda rate: velocity.guided(
        _nothing, _closure(rate), 1.0
    ),
    **{
        name: lambda rate, make=make: make(_closure(rate), schedulers.vp())
        for name, make in PREDICTIONS.items()
    },
    "a denoiser": lambda rate: velocity.from_denoiser(_closure(rate)),
    "a scheduler": lambda rate: velocity.from_data(
        _closure(1.0), schedulers.shifted(rate)
    ),
}

# One of each way to hold a number; `test_a_field_is_itself_and_no_other` has them all.
KEPT = ("an object", "NNX", "guided", "v", "a scheduler")

X0 = problems.noise(3, scale=0.5)
TIMES = np.linspace(0.0, 1.0, 5)
DATA = Pairs(
    X0, X0 / 2, (), np.ones(3, int), TIMES, np.stack([X0 * (1 - t / 2) for t in TIMES])
)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_itself_and_no_other(name):
    def what(field):
        answers = identity.probe(field(0.5, jnp.asarray(X0)))
        return identity.of_function("field", field, answers)

    one, again, other = map(what, map(FIELDS[name], (1.0, 1.0, 2.0)))
    assert not identity.differences(one, again)
    assert identity.differences(one, other)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", first_of(KEPT, "NNX"))
def test_a_folder_of_pairs_is_never_of_another_field(name, tmp_path):
    make = FIELDS[name]
    solve = functools.partial(ground_truth.pairs, directory=tmp_path, save_at=[0, 1])
    first = solve(make(1.0), X0)
    again = solve(make(1.0), X0)
    np.testing.assert_array_equal(first.x1, again.x1)
    with pytest.raises(ValueError, match=r"another configuration; (field|scheduler)"):
        solve(make(2.0), X0)


def test_a_field_that_differs_for_some_conditions_alone_is_another():
    def make(rate):
        return lambda t, x, label: -jnp.where(label[:, None] == 0, 1.0, rate) * x

    x0, label = problems.noise(40), np.arange(40) // 20
    (reason,) = problems.what_differs(make(1.0), make(2.0), x0, label)
    assert reason.startswith("field_probe: ")


def run(tmp_path, vf=None, **changes):
    """Two steps of a search, kept in a folder."""
    settings = {"optimizer": distill.adam(1e-3)} | changes
    settings["optimizer"] = settings["optimizer"].replace(batch=2, iterations=2)
    family = families.bns(solvers.euler(2))
    validation = DATA._replace(x0=X0 + 1.0)
    vf = vf or FIELDS["a closure"](1.0)
    return distill.fit(family, vf, DATA, validation, checkpoint=tmp_path, **settings)


@pytest.mark.parametrize("name", first_of(KEPT, "v"))
def test_the_state_of_a_run_is_never_of_another_field(name, tmp_path):
    make = FIELDS[name]
    run(tmp_path, make(1.0))
    run(tmp_path, make(1.0))
    with pytest.raises(ValueError, match="of another run; field"):
        run(tmp_path, make(2.0))


def _end_function(scale):
    return lambda x, target: scale * jnp.mean((x - target) ** 2, axis=1)


@dataclasses.dataclass(frozen=True)
class PathDistance:
    """A loss of the path whose number shows in what it answers alone."""

    hidden: object = dataclasses.field(repr=False)

    def __call__(self, x_n, batch):
        points = batch.path.points
        return self.hidden(jnp.mean(points[:, -1] ** 2, axis=1)) + 0 * x_n[:, 0]


def _path_loss(scale):
    return PathDistance(lambda values: scale * values)


PARTS = {
    "loss": lambda scale: {"objective": _end_function(scale)},
    "loss of the path": lambda scale: {"objective": _path_loss(scale)},
    "metric": lambda scale: {"metric": _end_function(-scale)},
    "optimizer": lambda scale: {"optimizer": distill.with_optax(optax.sgd(scale))},
    "optimizer (schedule)": lambda scale: {
        "optimizer": distill.with_optax(
            optax.sgd(optax.exponential_decay(1e-2, 1, 1 / scale))
        )
    },
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", first_of(PARTS, "optimizer (schedule)"))
def test_the_state_of_a_run_is_never_of_another(name, tmp_path):
    run(tmp_path, **PARTS[name](1.0))
    run(tmp_path, **PARTS[name](1.0))
    expected = f"of another run; {name.partition(' ')[0]}_probe"
    with pytest.raises(ValueError, match=expected):
        run(tmp_path, **PARTS[name](2.0))


def test_the_identity_of_a_run_is_known_before_it():
    family, vf = families.bns(solvers.euler(2)), FIELDS["NNX"](1.0)
    settings = {"optimizer": distill.adam(1e-3).replace(batch=2, iterations=2)}
    known = distill.identify(family, vf, DATA, DATA, **settings)
    with pytest.warns(UserWarning, match="no longer fair"):
        fitted = distill.fit(family, vf, DATA, DATA, **settings)
    assert identity.differences(known, fitted.identity) == []
    assert identity.digest(known) == identity.digest(fitted.identity)
    other = distill.identify(family, vf, DATA, DATA, **settings | {"seed": 1})
    assert identity.differences(known, other) == ["seed: there 0, here 1"]
    assert identity.digest(known) != identity.digest(other)


ADAMS = {"b1": {"b1": 0.5}, "b2": {"b2": 0.9}, "rate": {"learning_rate": 4e-3}}


@pytest.mark.parametrize("name", first_of(ADAMS, next(iter(ADAMS))))
def test_transformations_of_optax_are_told_apart_by_what_they_do(name):
    def known(**options):
        tx = optax.adam(**{"learning_rate": 3e-3, **options})
        optimizer = distill.with_optax(tx).replace(batch=2, iterations=2)
        family, vf = families.bns(solvers.euler(2)), FIELDS["NNX"](1.0)
        return distill.identify(family, vf, DATA, DATA, optimizer=optimizer)

    (differing,) = identity.differences(known(), known(**ADAMS[name]))
    assert differing.startswith("optimizer_probe")


def test_probes_agree_within_rounding_and_are_named_last():
    there = {"loss": "f", "loss_probe": [1.0, -2.0, None]}
    assert (
        identity.differences(there, there | {"loss_probe": [1.001, -2.0, None]}) == []
    )
    for other in ([1.01, -2.0, None], [1.0, -2.0, 0.0], [1.0, -2.0], []):
        found = identity.differences(there, there | {"loss_probe": other})
        assert len(found) == 1
        assert found[0].startswith("loss_probe: there [1.0, -2.0, None], here ")
    both = identity.differences(there, {"loss": "g", "loss_probe": [3.0]})
    assert both == ["loss: there 'f', here 'g'"]


def test_what_does_not_say_what_it_is_of_is_not_taken_for_the_same():
    message = "the file: it does not say which, as older versions; remove it"
    with pytest.raises(ValueError, match=message):
        identity.check_same({}, {"seed": 0}, "the file", "remove it")


def test_a_mapping_is_described_by_its_entries():
    described = identity.describe({"rate": 0.5, "of": {"seed": 1}})
    assert described == identity.describe({"of": {"seed": 1}, "rate": 0.5})
    for entry in ("rate", "0.5", "seed"):
        assert entry in described
    assert described != identity.describe({"rate": 0.5, "of": {"seed": 2}})


def _mixing(mean):
    return lambda t, x: mean(x) - x


MIXING = {
    "batch statistics": _mixing(lambda x: jnp.mean(x, axis=0, keepdims=True)),
    "dropout": lambda t, x: jnp.where(
        jax.random.bernoulli(jax.random.key(1), 0.5, x.shape), x, 0.0
    ),
    "the neighbor": _mixing(lambda x: jnp.roll(x, 1, axis=0)),
    "a scale": lambda t, x: x / jnp.max(jnp.abs(x)),
}


@pytest.mark.parametrize("vf", list(MIXING.values()), ids=list(MIXING))
def test_a_field_that_mixes_its_samples_is_refused(vf):
    with pytest.raises(ValueError, match=r"the field mixes its samples: at t = 0\.25"):
        ground_truth.pairs(vf, X0)
    with pytest.raises(ValueError, match="the field mixes its samples"):
        distill.fit(families.bns(solvers.euler(2)), vf, DATA, DATA._replace(x0=X0 + 1))


def test_a_network_whose_dropout_is_on_is_refused():
    class Dropping(nnx.Module):
        def __init__(self):
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, *t_and_x):
            return self.dropout(t_and_x[-1])

    network = Dropping()
    by_argument = jax.tree_util.Partial(lambda net, t, x: net(x), network)
    for vf in (network, lambda t, x: network(x), by_argument):
        with pytest.raises(ValueError, match=r"mixes its samples.*dropout"):
            ground_truth.pairs(vf, X0)
    network.eval()
    assert problems.what_differs(network, network, X0) == []
