"""Laws of programs that searches share: none is compiled twice, none is out of date."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bns_jax
from bns_jax import distill, families, metrics, schedulers, solvers
from bns_jax.distill.compiled import is_constant, jitted

from . import problems, searches
from .laws import first_of

START = families.bns(solvers.midpoint(2))
MAKERS = {
    "bns": lambda: families.bns(solvers.midpoint(2)),
    "bns, free start": lambda: families.bns(solvers.euler(2), free_start=True),
    "bst": lambda: families.bst("euler", 2),
    "constrained": lambda: families.constrained(START, 1),
    "preconditioned": lambda: families.preconditioned(START, schedulers.cond_ot(), 1.5),
}


@pytest.mark.parametrize("name", MAKERS)
def test_families_of_one_kind_are_equal_and_those_of_others_are_not(name):
    one, other = MAKERS[name](), MAKERS[name]()
    assert one.to_params == other.to_params
    assert hash(one.to_params) == hash(other.to_params)
    others = [MAKERS[key]().to_params for key in MAKERS if key != name]
    assert one.to_params not in others


def test_settings_of_a_family_tell_it_from_another():
    vp, cosine = schedulers.vp(), schedulers.cosine()
    made = [
        families.preconditioned(START, vp, 1.5),
        families.preconditioned(START, vp, 2.0),
        families.preconditioned(START, cosine, 1.5),
        families.constrained(START, 2),
        families.bst("midpoint", 2),
        families.bns(bns_jax.NSParams(np.array([0.1, 0.5]), *solvers.midpoint(2)[1:])),
    ]
    made += [MAKERS["constrained"](), MAKERS["bst"](), START]
    assert len({family.to_params for family in made}) == len(made)


@pytest.fixture
def counted():
    """A problem, and how often its field was traced or called."""
    field, train, validation = problems.shifted_problem()
    calls = []

    def count(t, x, label):
        calls.append(t)
        return field(t, x, label)

    return (count, train, validation), calls


SGD = optax.sgd(1e-3)
OPTIMIZERS = {
    "gauss_newton": distill.gauss_newton,
    "adam": distill.adam,
    "with_optax": lambda: distill.with_optax(SGD),
}


def search(problem, family, optimizer, **settings):
    counts = {"iterations": 2, "evaluate_every": 1}
    return searches.fit(family, *problem, optimizer=optimizer, **counts, **settings)


@pytest.mark.parametrize(
    "kind",
    first_of(
        [
            *itertools.product(["bns"], OPTIMIZERS),
            *((name, "gauss_newton") for name in MAKERS if name != "bns"),
        ],
        ("bns", "gauss_newton"),
    ),
)
def test_a_second_equal_search_traces_nothing(counted, kind):
    (problem, calls), (name, optimizer) = counted, kind
    one = search(problem, MAKERS[name](), OPTIMIZERS[optimizer]())
    traced = len(calls)
    other = search(problem, MAKERS[name](), OPTIMIZERS[optimizer](), seed=1)
    assert len(calls) == traced > 0
    again = search(problem, MAKERS[name](), OPTIMIZERS[optimizer]())
    np.testing.assert_array_equal(again.params.b, one.params.b)
    assert np.any(other.params.b != one.params.b)


FACTOR = 1.0


def of_a_global():
    def change():
        global FACTOR
        FACTOR = 2.0

    def loss(x, target):
        return FACTOR * distill.mse_loss(x, target)

    return loss, change


def of_a_closure():
    factor = 1.0

    def change():
        nonlocal factor
        factor = 2.0

    return lambda x, target: factor * distill.mse_loss(x, target), change


def of_an_attribute():
    class Loss:
        factor = 1.0

        def __call__(self, x, target):
            return self.factor * distill.mse_loss(x, target)

    loss = Loss()
    return loss, lambda: setattr(loss, "factor", 2.0)


def of_an_array():
    factor = np.ones(1)

    def loss(x, target, factor):
        return factor * distill.mse_loss(x, target)

    return functools.partial(loss, factor=factor), lambda: np.copyto(factor, 2.0)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "make",
    first_of([of_a_global, of_a_closure, of_an_attribute, of_an_array], of_a_closure),
)
def test_a_loss_that_changes_is_compiled_again(make):
    loss, change = make()
    settings = {"objective": loss, "optimizer": distill.adam()}
    before = search(problems.shifted_problem(), START, **settings)
    change()
    after = search(problems.shifted_problem(), START, **settings)
    global FACTOR
    FACTOR = 1.0
    got, expected = after.history[1].train_loss, 2 * before.history[1].train_loss
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_family_that_changes_is_validated_as_it_is():
    scale = {"a": 1.0}

    def to_params(theta):
        params = START.to_params(theta)
        return params._replace(a=params.a * scale["a"])

    family = families.Family(START.theta, to_params)
    problem = problems.shifted_problem()
    search(problem, family, distill.adam())
    scale["a"] = 0.5
    found = search(problem, family, distill.adam())
    halved = solvers.midpoint(2)._replace(a=np.full(2, 0.5))
    reached = np.mean(distill.evaluate(halved, problem[0], problem[2]))
    np.testing.assert_allclose(found.history[0].val_metric, reached, rtol=1e-12)


@pytest.mark.exhaustive
def test_a_metric_that_changed_is_another_search(tmp_path):
    factor = {"of": 1.0}

    def metric(x, x1):
        return factor["of"] * metrics.psnr(x, x1)

    def run():
        settings = {"metric": metric, "checkpoint": tmp_path}
        search(problems.shifted_problem(), START, distill.adam(), **settings)

    run()
    factor["of"] = 100.0
    with pytest.raises(ValueError, match="another run; metric_probe"):
        run()


@dataclasses.dataclass
class Power:
    """Equal by its fields and not frozen, and so without a hash."""

    p: float = 2.0

    def __call__(self, x, x1):
        return jnp.mean(jnp.abs(x - x1) ** self.p, axis=1)


def test_a_loss_without_a_hash_is_a_loss():
    found = search(problems.shifted_problem(), START, distill.adam(), objective=Power())
    assert np.isfinite(found.history[1].train_loss)


def test_a_transformation_without_a_hash_is_one():
    @dataclasses.dataclass
    class Halve:
        def __call__(self, updates, state, params=None):
            return jax.tree.map(lambda leaf: -0.5 * leaf, updates), state

    tx = optax.GradientTransformation(lambda params: optax.EmptyState(), Halve())
    search(problems.shifted_problem(), START, distill.with_optax(tx))


@functools.wraps(distill.psnr_loss)
def dressed(x, target):
    return FACTOR * distill.psnr_loss(x, target)


def itself():
    return itself


CONSTANT = {
    "function": distill.psnr_loss,
    "closure over a number": distill.huber_loss(0.5),
    "of optax": optax.adam(optax.cosine_decay_schedule(1e-3, 10)).update,
    "partial": functools.partial(metrics.psnr, data_range=2.0),
    "jitted": jnp.sin,
    "of a derivative of its own": jax.nn.relu,
    "frozen": schedulers.vp(),
    "method": schedulers.vp().alpha,
    "bespoke": distill.bespoke_loss("euler"),
    "tuple": (1, "a", None, metrics.psnr),
}
CHANGEABLE = {
    "own": itself,
    "own, under a library's name": dressed,
    "lambda": lambda x: x,
    "own, of a derivative of its own": jax.custom_jvp(itself),
    "array": np.ones(2),
    "partial of an array": functools.partial(metrics.psnr, data_range=np.ones(())),
    "of optax, with an own schedule": optax.adam(lambda step: 1e-3).update,
    "own, pairwise": distill.pairwise(itself),
    "list": [1],
    "object": object(),
    "own scheduler": type("Own", (schedulers.CondOT,), {"__module__": "mine"})(),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_what_libraries_hold_is_constant(name):
    assert is_constant(CONSTANT[name])


@pytest.mark.parametrize("name", CHANGEABLE)
def test_what_a_user_holds_may_change(name):
    assert not is_constant(CHANGEABLE[name])


def test_equal_constant_functions_have_one_program():
    loss = distill.pairwise(distill.psnr_loss)
    assert jitted(loss) is jitted(distill.pairwise(distill.psnr_loss))
    assert jitted(loss) is not jitted(loss, donate_argnums=0)
    assert jitted(itself) is not jitted(itself)
