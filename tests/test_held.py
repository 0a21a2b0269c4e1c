"""A field that was changed in place is another field."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bns_jax
from bns_jax import distill, ground_truth, solvers
from tests.laws import count_compilations, first_of

X0 = np.ones((4, 2))
EULER = solvers.euler(1)


class Network(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jnp.asarray(0.5))

    def velocity(self, t, x):
        return self.w[...] * x

    def set(self, w):
        self.w[...] = jnp.asarray(w)


class Plain:
    """No pytree: its number is an attribute of it."""

    def __init__(self, as_array):
        self.as_array = as_array
        self.set(0.5)

    def __call__(self, t, x):
        return self.w * x

    def set(self, w):
        self.w = jnp.asarray(w) if self.as_array else w


class Layer(eqx.Module):
    w: jax.Array

    def velocity(self, t, x):
        return self.w * x


class Outer(nnx.Module):
    """Its method is of a module that holds another."""

    def __init__(self, inner):
        self.inner = inner

    def velocity(self, t, x):
        return self.inner.velocity(t, x)


def closure(network):
    def field(t, x):
        return network.velocity(t, x)

    return field


def nested(network):
    inner = closure(network)
    return lambda t, x: inner(t, x)


def of_network(make):
    network = Network()
    return make(network), network.set


def of_object(as_array):
    plain = Plain(as_array)
    return plain, plain.set


FIELDS = {
    "method": lambda: of_network(lambda n: n.velocity),
    "method of an outer module": lambda: of_network(lambda n: Outer(n).velocity),
    "closure": lambda: of_network(closure),
    "closure over a closure": lambda: of_network(nested),
    "object with a number": lambda: of_object(False),
    "object with an array": lambda: of_object(True),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_was_changed_in_place_is_sampled_anew(name):
    field, change = FIELDS[name]()
    np.testing.assert_allclose(bns_jax.sample(EULER, field, X0), 1.5)
    with count_compilations() as compiled:
        bns_jax.sample(EULER, field, X0)
    assert not compiled
    change(-1.0)
    np.testing.assert_allclose(bns_jax.sample(EULER, field, X0), 0.0, atol=1e-12)


@pytest.mark.parametrize(
    "name", first_of(["method", "closure", "object with an array"], "closure")
)
def test_a_field_that_was_changed_in_place_answers_for_itself(name, tmp_path):
    field, change = FIELDS[name]()
    solved = ground_truth.pairs(field, X0, directory=tmp_path)
    np.testing.assert_allclose(solved.x1, np.exp(0.5), rtol=1e-4)
    change(-1.0)
    solved = ground_truth.pairs(field, X0)
    np.testing.assert_allclose(solved.x1, np.exp(-1.0), rtol=1e-4)
    reached = distill.evaluate(EULER, field, solved, lambda x, y: (x - y)[:, 0])
    np.testing.assert_allclose(reached, -np.exp(-1.0), rtol=1e-4)
    with pytest.raises(ValueError, match="of another configuration; field"):
        ground_truth.pairs(field, X0, directory=tmp_path)


def test_weights_of_a_method_are_arguments():
    """New ones compile nothing, and have a gradient."""
    x0 = jnp.asarray(X0)

    def total(w):
        return jnp.sum(bns_jax.sample(EULER, Layer(w).velocity, x0))

    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(0.5)), X0.size)
    bns_jax.sample(EULER, Layer(jnp.asarray(1.0)).velocity, x0)
    with count_compilations() as compiled:
        bns_jax.sample(EULER, Layer(jnp.asarray(2.0)).velocity, x0)
    assert not compiled
