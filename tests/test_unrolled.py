"""Laws of derivatives that are taken through another function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import ns, solvers
from bns_jax.derivatives import MOST_SUMS, differentiate_as, inside_a_loop
from tests.laws import assert_close, first_cases

X0 = np.random.default_rng(0).normal(size=(2, 6, 6, 3))
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 3, 3)) / 5


def function(x, k):
    return {"y": k * x**2}


def other(x, k):
    """A different one, so that a derivative shows whose it is."""
    return {"y": k * jnp.sin(x)}


@pytest.fixture
def call():
    return lambda x, k: differentiate_as(other, function)(x, k)["y"]


def test_the_value_is_the_functions_and_the_derivatives_are_the_others(call):
    x, k = np.arange(3.0), np.float64(2.0)
    assert_close(call(x, k), 2.0 * x**2, 1e-15)
    _, dx = jax.jvp(jax.jit(call), (x, k), (np.ones(3), np.zeros(())))
    assert_close(dx, 2.0 * np.cos(x), 1e-15)

    def total(x, k):
        return jnp.sum(call(x, k))

    dx, dk = jax.jit(jax.grad(total, (0, 1)))(x, k)
    assert_close(dx, 2.0 * np.cos(x), 1e-15)
    assert_close(dk, np.sum(np.sin(x)), 1e-15)
    rows = jax.jit(jax.vmap(jax.grad(total), (0, None)))(np.stack([x, -x]), k)
    assert_close(rows, 2.0 * np.cos(np.stack([x, -x])), 1e-15)
    for outer in (jax.jacfwd, jax.jacrev):
        second = jax.jit(outer(jax.grad(total)))(x, k)
        assert_close(second, np.diag(-2.0 * np.sin(x)), 1e-15)


def test_whole_numbers_and_keys_have_no_derivative(call):
    x = jnp.arange(3.0)
    assert_close(jax.grad(lambda x: jnp.sum(call(x, 2)))(x), 2 * jnp.cos(x), 1e-15)

    def draw(x, key):
        return x * jax.random.normal(key, x.shape, x.dtype)

    drawn = differentiate_as(draw, draw)
    dx = jax.grad(lambda x, key: jnp.sum(drawn(x, key)))(x, jax.random.key(0))
    assert_close(dx, draw(jnp.ones(3), jax.random.key(0)), 1e-15)


def test_no_derivative_is_computed_that_is_not_asked_for():
    """That of the weights of a network is most of what there is."""

    def product(x, w):
        return jnp.tanh(x @ w)

    def count(f):
        x, w = jnp.ones((2, 4)), jnp.ones((4, 4))
        gradient = jax.grad(lambda x: jnp.sum(f(x, w)))
        return str(jax.make_jaxpr(gradient)(x)).count("dot_general")

    assert count(differentiate_as(product, product)) == count(product) == 2


def convolve(kernel, t, x):
    u = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.sin(u + t)


def multiply(kernel, t, x):
    return jnp.sin(jnp.einsum("bhwi,ij->bhwj", x, kernel[0, 0]) + t)


def little(kernel, t, x):
    return jnp.tanh(jnp.einsum("bhwi,ij->bhwj", x, kernel[0, 0]))


def in_its_own_loop(kernel, t, x):
    return jax.lax.fori_loop(0, 2, lambda _, x: jnp.sin(x + t), x)


def inside_a_call(kernel, t, x):
    return jax.checkpoint(jax.jit(functools.partial(convolve, kernel)))(t, x)


def total(field, params, x0, kernel):
    vf = jax.tree_util.Partial(field, kernel)
    return jnp.sum(jnp.square(ns.sample(params, vf, x0)))


@pytest.mark.parametrize(
    ("field", "loops"),
    first_cases(
        [(convolve, 0), (inside_a_call, 0), (little, 0), (multiply, 2)],
        (inside_a_call, 0),
        (little, 0),
        (multiply, 2),
    ),
)
def test_convolutions_and_what_is_little_are_differentiated_without_a_loop(
    field, loops
):
    """XLA's CPU backend is slow with them in one; all else compiles faster in one."""
    inputs = jax.tree.map(jnp.asarray, (solvers.midpoint(4), X0, KERNEL))
    f = functools.partial(total, field)

    def count(f):
        return jax.jit(f).lower(*inputs).compile().as_text().count(" while(")

    assert count(jax.grad(f, argnums=(0, 1, 2))) == loops
    assert count(f) == 1


@pytest.mark.parametrize(
    ("field", "nfe", "in_a_loop"),
    [
        (little, MOST_SUMS, False),
        (little, MOST_SUMS + 1, True),
        (convolve, MOST_SUMS + 1, False),
        (in_its_own_loop, 2, True),
    ],
)
def test_many_evaluations_and_loops_inside_a_field_keep_the_loop(field, nfe, in_a_loop):
    """Derivatives agree with those of the algorithm that JAX differentiates itself."""
    inputs = jax.tree.map(jnp.asarray, (solvers.euler(nfe), X0, KERNEL))

    def by_hand(params, x0, kernel):
        vf = functools.partial(field, kernel)
        return jnp.sum(jnp.square(ns.as_solver(params)(vf, x0)))

    f = jax.jit(jax.grad(functools.partial(total, field), argnums=(0, 1, 2)))
    compiled = f.lower(*inputs).compile()
    assert (" while(" in compiled.as_text()) == in_a_loop
    expected = jax.jit(jax.grad(by_hand, argnums=(0, 1, 2)))(*inputs)
    for got, leaf in zip(
        *map(jax.tree.leaves, (compiled(*inputs), expected)), strict=True
    ):
        assert_close(got, leaf, 1e-11)


def test_the_path_and_the_velocities_are_differentiated_like_the_end():
    params, x0, kernel = jax.tree.map(jnp.asarray, (solvers.midpoint(4), X0, KERNEL))

    def end_of_path(params, vf, x0):
        return ns.sample_path(params, vf, x0)[-1]

    def with_velocities(params, vf, x0):
        return ns.sample_velocities(params, vf, x0)[0]

    def gradient(sample):
        def total(params, kernel):
            vf = jax.tree_util.Partial(convolve, kernel)
            return jnp.sum(jnp.square(sample(params, vf, x0)))

        return jax.jit(jax.grad(total, (0, 1))).lower(params, kernel).compile()

    expected = gradient(ns.sample)(params, kernel)
    for sample in (end_of_path, with_velocities):
        compiled = gradient(sample)
        assert " while(" not in compiled.as_text()
        for got, leaf in zip(
            *map(jax.tree.leaves, (compiled(params, kernel), expected)), strict=True
        ):
            assert_close(got, leaf, 1e-12)


def test_inside_a_loop_there_is_nothing_to_gain():
    inputs = jax.tree.map(jnp.asarray, (solvers.midpoint(4), X0, KERNEL))

    def gradients(params, x0, kernel):
        with inside_a_loop():
            return jax.lax.map(
                lambda x0: jax.grad(functools.partial(total, convolve))(
                    params, x0[None], kernel
                ),
                x0,
            )

    compiled = jax.jit(gradients).lower(*inputs).compile()
    assert compiled.as_text().count(" while(") == 3
