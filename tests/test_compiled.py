"""Laws of programs that searches share: none is compiled twice, none is out of date."""

import functools
import itertools

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
        itertools.product(MAKERS, OPTIMIZERS),
        ("bns", "gauss_newton"),
        ("constrained", "adam"),
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


@pytest.mark.parametrize(
    "make", [of_a_global, of_a_closure, of_an_attribute, of_an_array]
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


def itself():
    return itself


CONSTANT = {
    "function": distill.psnr_loss,
    "closure over a number": distill.huber_loss(0.5),
    "of optax": optax.adam(optax.cosine_decay_schedule(1e-3, 10)).update,
    "partial": functools.partial(metrics.psnr, data_range=2.0),
    "jitted": jnp.sin,
    "frozen": schedulers.vp(),
    "method": schedulers.vp().alpha,
    "bespoke": distill.bespoke_loss("euler"),
    "tuple": (1, "a", None, metrics.psnr),
}
CHANGEABLE = {
    "own": itself,
    "lambda": lambda x: x,
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
