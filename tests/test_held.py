"""A field that was changed in place is another field."""

import dataclasses
import enum
import functools
import logging
import types
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bns_jax
from bns_jax import distill, ground_truth, metrics, solvers, velocity
from bns_jax.pairs import Pairs
from bns_jax.pytree import as_pytree
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

    def velocity(self, t, x):
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


def of_plain(make):
    plain = Plain(True)
    return make(plain), plain.set


RATE, WEIGHTS = 0.5, {"w": jnp.asarray(0.5)}


def reads_a_number(t, x):
    return RATE * x


def reads_weights(t, x):
    return jax.tree.map(lambda x: WEIGHTS["w"] * x, x)


def through_another(t, x):
    return reads_weights(t, x)


def of_globals(field):
    def change(w):
        global RATE, WEIGHTS
        RATE, WEIGHTS = w, {"w": jnp.asarray(w)}

    change(0.5)
    return field, change


@functools.wraps(metrics.psnr)
def dressed(t, x):
    return RATE * x


def of_functions():
    act = closure(Network())

    def change(w):
        nonlocal act
        act = lambda t, x: w * x  # noqa: E731

    return lambda t, x: act(t, x), change


class Switched(nnx.Module):
    """What it does is decided by a flag, as that of `net.eval()`."""

    def __init__(self):
        self.is_on, self.w = False, nnx.Param(jnp.asarray(0.5))

    def __call__(self, t, x):
        return -x if self.is_on else self.w[...] * x


def of_static():
    network = Switched()
    return lambda t, x: network(t, x), lambda w: setattr(network, "is_on", True)


@jax.tree_util.register_pytree_node_class
class Warped:
    """A tree whose static part is an array, which has no truth value."""

    def __init__(self, rate):
        self.rate = rate

    def tree_flatten(self):
        return (), self.rate

    @classmethod
    def tree_unflatten(cls, rate, _):
        return cls(rate)


def of_static_arrays():
    warped = Warped(np.full(2, 0.5))
    change = lambda w: setattr(warped, "rate", np.full(2, w))  # noqa: E731
    return lambda t, x: warped.rate[None] * x, change


def of_a_number(kind=float):
    rate = kind(0.5)

    def change(w):
        nonlocal rate
        rate = kind(w)

    return lambda t, x: x.dtype.type(rate) * x, change


def scaled(t, x, w):
    return w * x


def bound(make):
    """A closure that was handed on before it changed."""
    network = Network()
    return make(closure(network)), network.set


def calls(field, t, x):
    return field(t, x)


OTHERS = types.ModuleType("others")
"""A module of the user's, whose functions a field calls by its name."""


def reads_a_module(t, x):
    return OTHERS.net(t, x) * OTHERS.scale


def of_a_module():
    OTHERS.net, OTHERS.scale = (lambda t, x: 0.5 * x), 1.0
    return reads_a_module, lambda w: setattr(OTHERS, "net", lambda t, x: w * x)


def of_a_number_of_a_module():
    OTHERS.net, OTHERS.scale = (lambda t, x: x), 0.5
    return reads_a_module, lambda w: setattr(OTHERS, "scale", w)


def reads_a_function(t, x):
    return FUNCTION(t, x)


def of_wrapped(wrap):
    """A global name for a function that a library has wrapped, bound again."""

    def change(w):
        global FUNCTION
        FUNCTION = wrap(lambda t, x: w * x)

    change(0.5)
    return reads_a_function, change


def of_a_wrapped_module():
    """What a library has wrapped is trained on in place."""
    global FUNCTION
    network = Network()
    FUNCTION = jax.vmap(network.velocity, (None, 0))
    return reads_a_function, network.set


def from_elsewhere(function):
    """The same function, of another module."""
    module = {"__name__": "elsewhere"}
    code, cells = function.__code__, function.__closure__
    return types.FunctionType(code, module, "net", None, cells)


def of_an_attribute():
    """A function of a library, as an activation is."""
    box = types.SimpleNamespace(act=jnp.positive)
    change = lambda w: setattr(box, "act", jnp.negative)  # noqa: E731
    return lambda t, x: (3 * box.act(x) - 1) / 4, change


def of_nothing():
    """None becomes what holds nothing either."""
    mask = None

    def change(w):
        nonlocal mask
        mask = ()

    return lambda t, x: (0.5 if mask is None else -1.0) * x, change


FIELDS = {
    "method": lambda: of_network(lambda n: n.velocity),
    "method of an outer module": lambda: of_network(lambda n: Outer(n).velocity),
    "closure": lambda: of_network(closure),
    "closure over a closure": lambda: of_network(nested),
    "object with a number": lambda: of_object(False),
    "object with an array": lambda: of_object(True),
    "closure over an object": lambda: of_plain(lambda p: lambda t, x: p(t, x)),
    "global number": lambda: of_globals(reads_a_number),
    "global weights": lambda: of_globals(reads_weights),
    "global weights of another function": lambda: of_globals(through_another),
    "partial": lambda: of_globals(functools.partial(calls, through_another)),
    "Partial": lambda: of_globals(jax.tree_util.Partial(calls, reads_weights)),
    "number of a closure": of_a_number,
    "nothing": of_nothing,
    "NumPy's number": lambda: of_a_number(np.float32),
    "method of an object": lambda: of_plain(lambda p: p.velocity),
    "partial method": lambda: of_plain(lambda p: functools.partial(p.velocity)),
    "velocity of methods": lambda: of_plain(
        lambda p: velocity.guided(p.velocity, p.velocity, 0.0)
    ),
    "under a library's name": lambda: of_globals(dressed),
    "exchanged function": of_functions,
    "static part of a module": of_static,
    "static array of a tree": of_static_arrays,
    "velocity of a closure": lambda: bound(lambda f: velocity.guided(f, f, 0.0)),
    "function of a module": of_a_module,
    "number of a module": of_a_number_of_a_module,
    "jitted function": lambda: of_wrapped(jax.jit),
    "function under vmap": lambda: of_wrapped(lambda f: jax.vmap(f, (None, 0))),
    "function under checkpoint": lambda: of_wrapped(jax.checkpoint),
    "function from elsewhere": lambda: of_wrapped(from_elsewhere),
    "partial of a jitted one": lambda: of_wrapped(
        lambda f: functools.partial(jax.jit(f))
    ),
    "module under vmap": of_a_wrapped_module,
    "function of a library": of_an_attribute,
}


KEPT = ("method of an object", "closure", "object with an array")
KEPT += (
    "static part of a module",
    "nothing",
    "static array of a tree",
    "global weights of another function",
)


@pytest.mark.parametrize("name", first_of(FIELDS, *KEPT))
def test_a_field_that_was_changed_in_place_answers_for_itself(name):
    field, change = FIELDS[name]()
    np.testing.assert_allclose(bns_jax.sample(EULER, field, X0), 1.5)
    with count_compilations() as compiled:
        bns_jax.sample(EULER, field, X0)
    assert not compiled
    change(-1.0)
    np.testing.assert_allclose(bns_jax.sample(EULER, field, X0), 0.0, atol=1e-12)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["closure", "method", "jitted function"])
def test_pairs_of_a_field_that_was_changed_in_place_are_its_own(name, tmp_path):
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


def of_closure(network):
    return lambda x, x1: network.velocity(0.0, x - x1)[:, 0]


class Metric:
    factor = 0.5

    def __call__(self, x, x1):
        return self.factor * (x - x1)[:, 0]


def of_attribute():
    metric = Metric()
    return metric, lambda w: setattr(metric, "factor", w)


METRICS = {"closure": lambda: of_network(of_closure), "attribute": of_attribute}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_that_was_changed_in_place_answers_for_itself(name):
    metric, change = METRICS[name]()
    data = Pairs.of(X0, 2 * X0)
    for factor in (0.5, -1.0):
        change(factor)
        reached = distill.evaluate(EULER, lambda t, x: 0.0 * x, data, metric)
        np.testing.assert_allclose(reached, -factor)


@dataclasses.dataclass
class Unhashable:
    """Equal to others by its numbers, which may change; so it has no hash."""

    w: float = 1.0

    def __call__(self, *args):
        return self.w * args[-1]


class Scaled(Unhashable):
    __hash__ = None

    def __call__(self, x, x1):
        return jnp.mean((self.w * x - x1) ** 2, -1)


def test_callables_without_a_hash_are_taken():
    change = Unhashable()
    data = Pairs.of(X0, 2 * X0)
    np.testing.assert_allclose(bns_jax.sample(EULER, change, X0), 2.0)
    np.testing.assert_allclose(distill.evaluate(EULER, change, data, Scaled()), 0.0)
    change.w = 0.5
    np.testing.assert_allclose(bns_jax.sample(EULER, change, X0), 1.5)
    # Against 2, of a range of 2: half of both is half as far away.
    problem = bns_jax.Problem(change, decode=Unhashable(2.0))
    reached = distill.evaluate(EULER, problem, data)
    np.testing.assert_allclose(reached, 10 * np.log10(4.0), rtol=1e-6)


def test_a_number_of_an_object_may_be_traced_again_and_again():
    field = Plain(False)

    def total(w):
        field.set(w)
        return jnp.sum(bns_jax.sample(EULER, field, X0))

    for differentiate in (jax.grad(total), jax.jit(jax.grad(total)), jax.grad(total)):
        np.testing.assert_allclose(differentiate(2.0), X0.size)


@pytest.mark.parametrize("note", [lambda *given: 1, lambda *given: given])
def test_calls_that_are_noted_compile_nothing_again(note):
    noted = []

    def field(t, x):
        noted.append(note(t, x))
        return x

    for _ in range(3):
        bns_jax.sample(EULER, field, X0)
    assert len(noted) == 1


def test_a_variable_that_is_not_filled_yet_is_passed_over():
    def field(t, x):
        return later * x if x.ndim > 2 else 0.5 * x

    np.testing.assert_allclose(bns_jax.sample(EULER, field, X0), 1.5)
    later = 0.5
    np.testing.assert_allclose(bns_jax.sample(EULER, field, X0[None]), 1.5)


class Scale(eqx.Module):
    """A module that holds a function and a number beside its weights."""

    w: jax.Array
    act: Callable = jnp.tanh
    gain: float = 1.0

    def __call__(self, t, x):
        return self.velocity(t, x)

    def velocity(self, t, x):
        return self.gain * self.act(self.w * x)

    @property
    def name(self):
        return "scale"


@jax.tree_util.register_pytree_node_class
class Bound:
    """What `Scale` is, of plain Python: its method is bound to it."""

    def __init__(self, scale):
        self.scale = scale

    def tree_flatten(self):
        return (self.scale,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)

    def velocity(self, t, x):
        return self.scale(t, x)


USES = {
    "module": lambda module: module,
    "method": lambda module: module.velocity,
    "bound method": lambda module: Bound(module).velocity,
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_what_a_module_holds_beside_its_weights_counts_and_the_weights_are_arguments(
    use,
):
    def sampled(w, **beside):
        return bns_jax.sample(EULER, use(Scale(jnp.asarray(w), **beside)), X0)

    np.testing.assert_allclose(sampled(0.5), 1 + np.tanh(0.5))
    with count_compilations() as compiled:
        np.testing.assert_allclose(sampled(2.0), 1 + np.tanh(2.0))
    assert not compiled
    np.testing.assert_allclose(sampled(0.5, act=jnp.sin), 1 + np.sin(0.5))
    np.testing.assert_allclose(sampled(0.5, gain=2.0), 1 + 2 * np.tanh(0.5))


def test_a_module_in_two_parts_has_its_attributes():
    parts = as_pytree(Scale(jnp.ones(2)))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(parts))
    assert (parts.name, parts.gain) == ("scale", 1.0)
    for name in ("missing", "_private", "__array__"):
        assert not hasattr(parts, name)


def test_what_is_static_has_a_hash_whatever_it_is():
    """As JAX asks of it; equal parts have equal ones."""
    (_, one), (_, same), (_, other) = (
        as_pytree(Scale(jnp.ones(2), act=act)).tree_flatten()
        for act in (Unhashable(), Unhashable(), Unhashable(2.0))
    )
    assert hash(one[0]) == hash(same[0])
    assert one == same != other


class Color(enum.Enum):
    RED, BLUE = 1, 2


class Lazy:
    """Says of nothing whether it is there."""

    def __getattr__(self, name):
        raise RuntimeError(name)


class Link:
    def __init__(self, following):
        self.following = following


LOGGER = logging.getLogger(__name__)
CHAIN = functools.reduce(lambda link, _: Link(link), range(3_000), None)
RING = Link(None)
RING.following = RING
SETTINGS = {Color.RED: 0.5, Color.BLUE: CHAIN, None: RING, 1: LOGGER, "a": Lazy()}


def test_whatever_a_field_reads_it_is_sampled_and_compiled_once():
    def field(t, x):
        LOGGER.debug("traced")
        return SETTINGS[Color.RED] * x

    np.testing.assert_allclose(bns_jax.sample(EULER, field, X0), 1.5)
    with count_compilations() as compiled:
        bns_jax.sample(EULER, field, X0)
    assert not compiled


def test_calls_that_are_counted_compile_nothing_again():
    count = 0

    def field(t, x):
        nonlocal count
        count += 1
        return x

    for _ in range(3):
        bns_jax.sample(EULER, field, X0)
    assert count == 1


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
