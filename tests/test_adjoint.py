"""Laws of the derivatives of `sample`: against a plain loop, in every mode."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bns_jax import ns, solvers
from bns_jax.ns import NSParams
from experiments.models import catalogue
from tests.laws import (
    assert_close,
    count_compilations,
    first_cases,
    first_of,
    random_params,
)

X0 = np.random.default_rng(3).normal(size=(8, 3))
LABELS = np.array([0, 2, 1, 1, 0, 2, 2, 0], np.int32)
WEIGHTS = {
    "w": np.random.default_rng(4).normal(size=(3, 3)),
    "labels": np.random.default_rng(5).normal(size=(3, 3)),
    "order": np.array([2, 0, 1], np.int32),
    "none": None,
}


def apply(weights, t, x, label, scale):
    """A small network with whole-number weights, labels, and one more argument."""
    hidden = jnp.einsum("...i,ij->...j", x, weights["w"])
    shift = jax.nn.one_hot(label, 3, dtype=x.dtype) @ weights["labels"]
    u = jnp.sin(hidden + t + shift) - scale * x
    order = jax.nn.one_hot(weights["order"], 3, dtype=x.dtype)
    return jnp.einsum("...i,ij->...j", u, order)


def loop(params, vf, x0, *args):
    """Eq. 11, one term after another."""
    x, velocities = x0, []
    for i in range(len(params.times)):
        velocities.append(vf(params.times[i], x, *args))
        x = params.a[i] * x0
        for j in range(i + 1):
            x = x + params.b[i, j] * velocities[j]
    return x


def loss(run_it, params, x0, scale, weights, label=LABELS):
    """Of all that `sample` reads; the integers come last."""
    vf = jax.tree_util.Partial(apply, weights)
    x = run_it(params, vf, x0, label, scale)
    return jnp.sum(jnp.square(x) * jnp.arange(1.0, 4.0, dtype=x.dtype)[None])


def arguments(rng, nfe):
    params = jax.tree.map(jnp.asarray, random_params(rng, nfe))
    return params, jnp.asarray(X0), jnp.asarray(0.3), jax.tree.map(jnp.asarray, WEIGHTS)


def gradient(run_it, **options):
    return jax.grad(
        functools.partial(loss, run_it), (0, 1, 2, 3), allow_int=True, **options
    )


def assert_trees_close(got, expected, tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for leaf, other in zip(
        jax.tree.leaves(got), jax.tree.leaves(expected), strict=True
    ):
        assert leaf.dtype == other.dtype
        if other.dtype != jax.dtypes.float0:
            assert_close(leaf, other, tolerance)


@functools.cache
def compiled_gradient(run_it):
    """Of all inputs and the labels; one program for each number of evaluations."""
    return jax.jit(gradient(run_it))


@pytest.mark.parametrize("nfes", first_of([(4,), (1, 2, 3)], (4,)))
def test_gradients_are_those_of_the_loop(nfes):
    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(st.sampled_from(nfes), st.integers(0, 2**32 - 1))
    def law(nfe, seed):
        inputs = *arguments(np.random.default_rng(seed), nfe), LABELS
        got = compiled_gradient(ns.sample)(*inputs)
        assert_trees_close(got, compiled_gradient(loop)(*inputs), 1e-12)

    law()


def test_whole_numbers_have_no_gradient(rng):
    weights = compiled_gradient(ns.sample)(*arguments(rng, 4), LABELS)[3]
    assert weights["order"].dtype == jax.dtypes.float0
    assert weights["none"] is None


def test_each_gradient_alone_is_that_of_all(rng):
    inputs = arguments(rng, 4)

    @jax.jit
    def alone(*inputs):
        f = functools.partial(loss, ns.sample)
        return tuple(jax.grad(f, k, allow_int=True)(*inputs) for k in range(4))

    expected = compiled_gradient(ns.sample)(*inputs, LABELS)
    assert_trees_close(alone(*inputs), expected, 1e-13)


def test_the_field_is_evaluated_once_more_for_any_number_of_cotangents(rng):
    params, x0, scale, weights = arguments(rng, 4)
    seen = []

    def watched(t, x, *args):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return apply(weights, t, x, *args)

    def run(params):
        return ns.sample(params, watched, x0, LABELS, scale)

    _, pull = jax.vjp(run, params)
    jax.block_until_ready(jax.vmap(pull)(jnp.ones((3, *x0.shape))))
    jax.effects_barrier()
    assert len(seen) == 2 * 4
    there, back = np.array(seen[:4]), np.array(seen[4:])
    assert_close(back, there[::-1], 1e-14)


def test_jvp_and_vjp_are_transposes_and_meet_finite_differences(rng):
    params, x0, scale, weights = arguments(rng, 4)

    @jax.jit
    def f(params, x0, scale, w):
        return ns.sample(
            params, jax.tree_util.Partial(apply, weights | {"w": w}), x0, LABELS, scale
        )

    point = params, x0, scale, weights["w"]
    v = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), point)
    # Above its diagonal b is read by nothing.
    v = (v[0]._replace(b=jnp.tril(v[0].b)), *v[1:])
    w = jnp.asarray(rng.normal(size=x0.shape))
    _, jv = jax.jvp(f, point, v)
    _, pull = jax.vjp(f, *point)
    products = jax.tree.map(jnp.vdot, v, pull(w))
    assert_close(jnp.vdot(jv, w), sum(jax.tree.leaves(products)), 1e-12)

    def moved(h):
        return f(*jax.tree.map(lambda leaf, d: leaf + h * d, point, v))

    h = 1e-5
    assert_close(jv, (moved(h) - moved(-h)) / (2 * h), 1e-7)
    assert_close(jax.linearize(f, *point)[1](*v), jv, 1e-13)


MODES = jax.jacfwd, jax.jacrev
REVERSE = jax.jacrev, jax.jacrev


@pytest.mark.parametrize("modes", first_of(itertools.product(MODES, MODES), REVERSE))
def test_second_derivatives(rng, modes):
    """In all orders of the modes, reverse over reverse among them."""
    outer, inner = modes
    params, x0, scale, weights = arguments(rng, 3)
    point, unravel = ravel_pytree((params, scale, weights["w"]))

    def f(run_it, point):
        params, scale, w = unravel(point)
        inputs = params, x0[:2], scale, weights | {"w": w}
        return loss(run_it, *inputs, LABELS[:2])

    expected = jax.jit(jax.hessian(functools.partial(f, loop)))(point)
    got = jax.jit(outer(inner(functools.partial(f, ns.sample))))(point)
    assert_close(got, expected, 1e-11)


def test_the_jacobian_is_the_same_in_both_modes(rng):
    params, x0, scale, weights = arguments(rng, 3)
    vf = jax.tree_util.Partial(apply, weights)

    def f(params):
        return ns.sample(params, vf, x0[:2], LABELS[:2], scale)

    forward, reverse = (jax.jit(mode(f))(params) for mode in MODES)
    assert_trees_close(forward, reverse, 1e-12)


@pytest.mark.exhaustive
def test_vmap_of_grad_and_grad_of_vmap_are_loops(rng):
    many = [random_params(np.random.default_rng(seed), 4) for seed in range(3)]
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *many)
    _, _, scale, weights = arguments(rng, 4)
    x0 = X0[None] + np.arange(3.0)[:, None, None]
    labels = np.stack([LABELS, LABELS[::-1], (LABELS + 1) % 3])
    axes = 0, 0, None, None, 0
    got = jax.jit(jax.vmap(gradient(ns.sample), in_axes=axes))(
        params, x0, scale, weights, labels
    )
    for k in range(3):
        row = jax.tree.map(lambda leaf, k=k: leaf[k], params)
        expected = compiled_gradient(loop)(row, x0[k], scale, weights, labels[k])
        kth = jax.tree.map(lambda leaf, k=k: leaf[k], got)
        assert_trees_close(kth, expected, 1e-12)

    def total(run_it, *inputs):
        return jnp.sum(jax.vmap(functools.partial(loss, run_it), axes)(*inputs))

    got, expected = (
        jax.jit(
            jax.grad(functools.partial(total, run_it), (0, 1, 2, 3), allow_int=True)
        )(params, x0, scale, weights, labels)
        for run_it in (ns.sample, loop)
    )
    assert_trees_close(got, expected, 1e-12)


def test_sketches_of_single_samples_are_rows_of_the_jacobian(rng):
    """What the trainer does: per sample, a batch of one and a few cotangents."""
    params, x0, scale, weights = arguments(rng, 4)
    vf = jax.tree_util.Partial(apply, weights)

    def one(run_it, x0, label, signs):
        def f(params):
            return run_it(params, vf, x0[None], label[None], scale)[0]

        return jax.vmap(jax.vjp(f, params)[1])(signs)[0]

    signs = jnp.asarray(rng.choice([-1.0, 1.0], size=(8, 2, 3)))
    got, expected = (
        jax.jit(jax.vmap(functools.partial(one, run_it)))(x0, LABELS, signs)
        for run_it in (ns.sample, loop)
    )
    assert_trees_close(got, expected, 1e-12)


def test_a_field_may_speak_to_its_vmapped_neighbours(rng):
    params, x0, scale, weights = arguments(rng, 3)

    def vf(t, x):
        return apply(weights, t, x, LABELS, scale) - jax.lax.pmean(x, "rows")

    def whole(t, x):
        mean = jnp.mean(x, axis=0)
        return jax.vmap(lambda x: apply(weights, t, x, LABELS, scale) - mean)(x)

    def total(params, x0):
        rows = jax.vmap(lambda x0: ns.sample(params, vf, x0), axis_name="rows")(x0)
        return jnp.sum(jnp.square(rows))

    x0 = X0[None] + np.arange(3.0)[:, None, None]
    got = jax.jit(jax.grad(total, (0, 1)))(params, x0)
    expected = jax.jit(
        jax.grad(
            lambda params, x0: jnp.sum(jnp.square(loop(params, whole, x0))), (0, 1)
        )
    )(params, x0)
    assert_trees_close(got, expected, 1e-12)


def test_what_the_field_closes_over_is_differentiated(rng):
    """Whole numbers under a trace may be closed over too."""
    params, x0, scale, weights = arguments(rng, 3)

    @functools.partial(jax.jit, static_argnums=0)
    @functools.partial(jax.grad, argnums=1)
    def closed(run_it, w, order):
        def vf(t, x):
            return apply(weights | {"w": w, "order": order}, t, x, LABELS, scale)

        return jnp.sum(jnp.square(run_it(params, vf, x0)))

    got, expected = (
        closed(run_it, weights["w"], weights["order"]) for run_it in (ns.sample, loop)
    )
    assert_close(got, expected, 1e-12)


def test_keys_may_be_arguments(rng):
    params, x0, _, _ = arguments(rng, 3)

    def total(run_it, x0, key):
        def vf(t, x, key):
            return x * jax.random.normal(key, x.shape, x.dtype)

        return jnp.sum(jnp.square(run_it(params, vf, x0, key)))

    got, expected = (
        jax.jit(jax.grad(functools.partial(total, run_it)))(x0, jax.random.key(0))
        for run_it in (ns.sample, loop)
    )
    assert_close(got, expected, 1e-12)


def test_entries_above_the_diagonal_change_nothing(rng):
    params, *rest = arguments(rng, 4)
    full = params._replace(b=params.b + np.triu(np.full((4, 4), np.nan), 1))
    got, expected = (
        compiled_gradient(ns.sample)(p, *rest, LABELS) for p in (full, params)
    )
    assert_trees_close(got, expected, 1e-14)
    assert not np.any(np.triu(got[0].b, 1))


def test_whole_number_coefficients_are_coefficients(rng):
    _, x0, scale, weights = arguments(rng, 1)
    params = solvers.euler(1)
    whole = NSParams(*(np.asarray(leaf, np.int32) for leaf in params))
    got, expected = (
        jax.jit(jax.grad(functools.partial(loss, ns.sample, p)))(x0, scale, weights)
        for p in (whole, params)
    )
    assert_close(got, expected, 1e-12)


def test_gradients_of_trees_keep_their_dtypes(rng):
    """The leaves are coupled, and each sums in its own wider type."""
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), random_params(rng, 4))
    x0 = {"a": jnp.asarray(X0), "b": (jnp.asarray(X0[:, :1], jnp.bfloat16),)}

    def vf(t, x):
        a, b = x["a"], x["b"][0]
        mean = jnp.mean(a, axis=1, keepdims=True)
        return {
            "a": jnp.sin(a + t) + b.astype(a.dtype),
            "b": (-b + mean.astype(b.dtype),),
        }

    def total(params, x0):
        x = ns.sample(params, vf, x0)
        return sum(
            jnp.sum(jnp.square(leaf).astype(jnp.float64)) for leaf in jax.tree.leaves(x)
        )

    gradient = jax.jit(jax.grad(total, (0, 1)))
    got = gradient(params, x0)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x0))
    expected = gradient(*wide)
    for leaf, like, other in zip(
        *map(jax.tree.leaves, (got, (params, x0), expected)), strict=True
    ):
        assert leaf.dtype == like.dtype
        assert_close(np.asarray(leaf, np.float64), other, 0.05)


def test_cotangents_are_summed_in_the_wider_type():
    """64 terms of 1/512, each below half an ulp of 1 in bfloat16."""
    n = 64
    params = NSParams(np.arange(n) / n, np.ones(n), np.tri(n) / 512)
    params = jax.tree.map(np.float32, params)

    def total(shift):
        x0 = jnp.ones(1, jnp.bfloat16)
        x = ns.sample(params, lambda t, x: shift.astype(x.dtype) + 0 * x, x0)
        return jnp.sum(x.astype(jnp.float32))

    assert_close(jax.jit(jax.grad(total))(np.zeros(1, np.float32)), [0.125], 1e-6)


def test_the_gradient_traces_the_field_once_and_compiles_once(rng):
    traces = []

    def counted(weights, t, x, label, scale):
        traces.append(None)
        return apply(weights, t, x, label, scale)

    params, x0, scale, weights = arguments(rng, 4)

    @jax.jit
    @jax.grad
    def derivative(params, w):
        vf = jax.tree_util.Partial(counted, weights | {"w": w})
        return jnp.sum(ns.sample(params, vf, x0, LABELS, scale))

    jax.block_until_ready(derivative(params, weights["w"]))
    more = weights["w"] + 1.0
    with count_compilations() as compiled:
        jax.block_until_ready(derivative(params, more))
    assert not compiled
    assert len(traces) == 1


@pytest.mark.parametrize(
    "kind", first_of([AxisType.Auto, AxisType.Explicit], AxisType.Explicit), ids=str
)
def test_sharded_gradients_are_those_of_one_device(rng, kind):
    inputs = arguments(rng, 4)
    expected = compiled_gradient(ns.sample)(*inputs, LABELS)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    rows = NamedSharding(mesh, P("data"))
    params, x0, scale, weights = inputs
    with jax.set_mesh(mesh):
        x0, labels = jax.device_put((x0, jnp.asarray(LABELS)), rows)
        got = jax.jit(gradient(ns.sample))(params, x0, scale, weights, labels)
    assert got[1].sharding.is_equivalent_to(rows, 2)
    assert_trees_close(got, expected, 1e-12)


@pytest.mark.parametrize("batched", first_of([False, True], True))
def test_differentiates_networks_that_are_split_over_devices(rng, batched):
    """Each device holds some of the hidden features, inside `jax.shard_map`."""
    inner, outer = rng.normal(size=(3, 16)), rng.normal(size=(16, 3))
    params, x0, _, _ = arguments(rng, 4)
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))

    def total(run_it, together, params, x0, inner, outer):
        def vf(t, x):
            return together(jnp.tanh(x @ inner + t) @ outer)

        run_it = functools.partial(run_it, params, vf)
        return jnp.sum(jnp.square((jax.vmap(run_it) if batched else run_it)(x0)))

    def derivatives(run_it, together):
        f = functools.partial(total, run_it, together)
        return jax.grad(f, argnums=(0, 1, 2, 3))

    specs = P(), P(), P(None, "model"), P("model")
    together = functools.partial(jax.lax.psum, axis_name="model")
    split = jax.shard_map(
        derivatives(ns.sample, together), mesh=mesh, in_specs=specs, out_specs=specs
    )
    got = jax.jit(split)(params, x0, inner, outer)
    expected = jax.jit(derivatives(loop, lambda u: u))(params, x0, inner, outer)
    assert_trees_close(got, expected, 1e-12)


def temporary_bytes(function, *inputs):
    memory = jax.jit(function).lower(*inputs).compile().memory_analysis()
    return memory.temp_size_in_bytes


def digits():
    model = catalogue.digits(0.2)
    x0, args = model.draw(4, np.random.default_rng(0))
    return model.field, jnp.asarray(x0), args


def wide():
    def field(t, x):
        return jnp.sin(x @ jnp.full((64, 64), 0.1, x.dtype) * t)

    return field, jnp.ones((256, 64), jnp.float32), ()


@pytest.mark.parametrize(
    ("case", "more"), first_cases([(digits, 4), (wide, 16)], (wide, 16))
)
def test_the_backward_pass_stores_three_iterates_per_evaluation(case, more):
    """The law of memory: what more evaluations cost, in iterates."""
    field, x0, args = case()

    def total(params, x0):
        return jnp.sum(jnp.square(ns.sample(params, field, x0, *args)))

    def needed(nfe):
        params = solvers.rk4(nfe)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
        return temporary_bytes(jax.grad(total, argnums=(0, 1)), params, x0)

    assert 0 < needed(4 + more) - needed(4) <= 3.01 * more * x0.nbytes


def test_a_batch_by_vmap_shares_the_gradient_of_large_weights(rng):
    """It needs what a batch axis needs, not one gradient for each of the batch."""
    params, x0, _, _ = arguments(rng, 4)
    weights = rng.normal(size=(3, 512)), rng.normal(size=(512, 3))

    def total(over, run_it, weights):
        def vf(t, x):
            return jnp.tanh(x @ weights[0] + t) @ weights[1]

        return jnp.sum(jnp.square(over(lambda x0: run_it(params, vf, x0))(x0)))

    def whole(function):
        return function

    got, axis, expected = (
        jax.jit(jax.grad(functools.partial(total, over, run_it)))
        for over, run_it in (
            (jax.vmap, ns.sample),
            (whole, ns.sample),
            (whole, loop),
        )
    )
    assert_trees_close(got(weights), expected(weights), 1e-12)
    assert temporary_bytes(got, weights) < 2 * temporary_bytes(axis, weights)


def test_linear_functions_with_a_part_that_is_known(rng):
    """The tangent of one argument is a constant, that of the other is sought."""
    params, x0, scale, weights = arguments(rng, 3)
    vf = jax.tree_util.Partial(apply, weights)

    def along(run_it, dx0):
        def f(params, x0):
            return run_it(params, vf, x0, LABELS, scale)

        return jax.jvp(f, (params, x0), (params, dx0))[1]

    for derivative in MODES:
        got, expected = (
            jax.jit(derivative(functools.partial(along, run_it)))(x0)
            for run_it in (ns.sample, loop)
        )
        assert_close(got, expected, 1e-12)
