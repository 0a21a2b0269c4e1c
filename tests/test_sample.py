"""Laws of the sampler: eq. 11, under every transformation of JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import bns_jax
from bns_jax import ns, solvers
from bns_jax.ns import NSParams
from tests.fields import wavy
from tests.laws import (
    assert_close,
    count_compilations,
    first_cases,
    first_of,
    random_params,
    run,
)

NFE = 5
PARAMS = random_params(np.random.default_rng(1), NFE)
X0 = np.random.default_rng(2).normal(size=(8, 3))
WEIGHTS = {"w": jnp.asarray([[0.3, -0.2, 0.5], [0.1, 0.7, -0.4], [-0.6, 0.2, 0.3]])}

each_mesh = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)


def apply(weights, t, x):
    """A small network."""
    hidden = jnp.einsum("...i,ij->...j", x, weights["w"].astype(x.dtype))
    return jnp.sin(hidden + t.astype(x.dtype)) - 0.3 * x


def network(weights=WEIGHTS):
    return jax.tree_util.Partial(apply, weights)


def apply_in_numpy(t, x):
    return np.sin(x @ np.asarray(WEIGHTS["w"]) + t) - 0.3 * x


def test_sample_is_eq_11():
    for params in (PARAMS, solvers.rk4(8), solvers.euler(1)):
        got = ns.sample(params, network(), X0)
        assert_close(got, run(params, apply_in_numpy, X0)[-1], 1e-12)


def test_sample_path_is_every_iterate():
    path = ns.sample_path(PARAMS, network(), X0)
    assert_close(path, run(PARAMS, apply_in_numpy, X0), 1e-12)


def test_the_last_row_of_the_path_is_the_sample():
    path = ns.sample_path(PARAMS, network(), X0)
    np.testing.assert_array_equal(path[-1], ns.sample(PARAMS, network(), X0))


def test_conditioning_is_handed_on():
    def vf(t, x, label, options):
        return label * x + options["shift"]

    args = jnp.asarray(0.4), {"shift": jnp.asarray(0.1)}
    got = ns.sample(PARAMS, vf, X0, *args)
    assert_close(got, run(PARAMS, lambda t, x: 0.4 * x + 0.1, X0)[-1], 1e-12)


def test_trees_are_samples():
    """Against one flat array: the field couples the leaves."""
    x0 = {"a": X0[:, :2], "b": (X0[:, 2],)}

    def vf(t, x):
        u = apply(WEIGHTS, t, jnp.concatenate([x["a"], x["b"][0][:, None]], axis=1))
        return {"a": u[:, :2], "b": (u[:, 2],)}

    got = ns.sample(PARAMS, vf, x0)
    expected = run(PARAMS, apply_in_numpy, X0)[-1]
    assert jax.tree.structure(got) == jax.tree.structure(x0)
    assert_close(got["a"], expected[:, :2], 1e-12)
    assert_close(got["b"][0], expected[:, 2], 1e-12)
    path = ns.sample_path(PARAMS, vf, x0)
    assert path["a"].shape == (NFE, 8, 2)
    assert path["b"][0].shape == (NFE, 8)


def test_a_single_number_is_a_sample():
    got = ns.sample(PARAMS, wavy, 0.3)
    assert_close(got, run(PARAMS, wavy, np.float64(0.3))[-1], 1e-12)


PRECISIONS = [
    (jnp.float64, jnp.float64, 1e-12),
    (jnp.float32, jnp.float32, 1e-5),
    (jnp.bfloat16, jnp.float32, 0.05),
    (jnp.float16, jnp.float32, 0.01),
]


@pytest.mark.parametrize(
    ("dtype", "time", "tolerance"),
    first_cases(PRECISIONS, *PRECISIONS[:3]),
)
@pytest.mark.parametrize("coefficients", [jnp.float32, jnp.float64])
def test_dtypes_of_x_are_kept(dtype, time, tolerance, coefficients):
    seen = set()

    def vf(t, x):
        seen.add((t.dtype, x.dtype))
        return apply(WEIGHTS, t, x)

    params = jax.tree.map(lambda leaf: np.asarray(leaf, coefficients), PARAMS)
    got = ns.sample(params, vf, jnp.asarray(X0, dtype))
    assert got.dtype == dtype
    assert ns.sample_path(params, network(), jnp.asarray(X0, dtype)).dtype == dtype
    assert seen == {(jnp.dtype(time), jnp.dtype(dtype))}
    expected = run(PARAMS, apply_in_numpy, X0)[-1]
    assert_close(got.astype(np.float64), expected, max(tolerance, 1e-5))


def test_sums_run_in_the_wider_type():
    """64 steps of 1/512, each below half an ulp of 1 in bfloat16."""
    n = 64
    params = NSParams(np.arange(n) / n, np.ones(n), np.tri(n) / 512)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    got = ns.sample(params, lambda t, x: jnp.ones_like(x), jnp.ones(2, jnp.bfloat16))
    np.testing.assert_array_equal(got.astype(np.float64), 1.125)


def test_a_field_may_answer_in_the_dtype_of_time():
    got = ns.sample(
        PARAMS, lambda t, x: x.astype(t.dtype) * t, jnp.ones(3, jnp.bfloat16)
    )
    assert got.dtype == jnp.bfloat16


def counted(traces):
    def vf(weights, t, x):
        traces.append(None)
        return apply(weights, t, x)

    return vf


@pytest.mark.parametrize("nfe", [1, 4, 32])
def test_the_field_is_traced_once_whatever_the_number_of_calls(nfe):
    traces = []
    vf = jax.tree_util.Partial(counted(traces), WEIGHTS)
    ns.sample(solvers.euler(nfe), vf, X0)
    assert len(traces) == 1


def test_a_second_call_compiles_nothing_and_new_weights_compile_nothing():
    traces = []
    apply_counted = counted(traces)
    more = [jax.tree.map(lambda w, k=k: k * w, WEIGHTS) for k in (1.0, 2.0, 3.0)]
    solver = [jax.tree.map(lambda leaf, k=k: k * leaf, PARAMS) for k in (1.0, 0.9)]

    def go(weights, params):
        vf = jax.tree_util.Partial(apply_counted, weights)
        return jax.block_until_ready(ns.sample(params, vf, X0))

    go(more[0], solver[0])
    with count_compilations() as compiled:
        results = [go(weights, solver[0]) for weights in more]
        go(more[0], solver[1])
    assert not compiled
    assert len(traces) == 1
    assert not np.allclose(results[0], results[1])


def test_a_plain_function_compiles_once():
    def vf(t, x):
        return x * t

    ns.sample(PARAMS, vf, X0)
    with count_compilations() as compiled:
        jax.block_until_ready(ns.sample(PARAMS, vf, 2.0 * X0))
    assert not compiled


def test_works_under_jit():
    got = jax.jit(ns.sample)(PARAMS, network(), X0)
    assert_close(got, ns.sample(PARAMS, network(), X0), 1e-13)


def test_works_under_vmap_over_samples():
    got = jax.vmap(lambda x: ns.sample(PARAMS, network(), x))(jnp.asarray(X0))
    assert_close(got, ns.sample(PARAMS, network(), X0), 1e-13)


def test_works_under_vmap_over_solvers():
    many = [random_params(np.random.default_rng(seed), NFE) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    got = jax.vmap(lambda params: ns.sample(params, network(), X0))(stacked)
    expected = [run(params, apply_in_numpy, X0)[-1] for params in many]
    assert_close(got, np.stack(expected), 1e-12)


def sharded(mesh, spec, x=X0):
    return jax.device_put(x, NamedSharding(mesh, spec))


@each_mesh
@pytest.mark.parametrize("function", [ns.sample, ns.sample_path])
def test_sharded_noise_keeps_its_sharding(kind, function):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    x0 = sharded(mesh, P("data"))
    with jax.set_mesh(mesh):
        got = function(PARAMS, network(), x0)
    spec = P("data") if function is ns.sample else P(None, "data")
    assert got.sharding.is_equivalent_to(NamedSharding(mesh, spec), got.ndim)
    assert_close(got, function(PARAMS, network(), X0), 1e-13)


def test_sharded_noise_keeps_its_sharding_without_a_mesh_in_context():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    x = np.random.default_rng(0).normal(size=(8, 4))
    x0 = sharded(mesh, P("data", "model"), x)
    got = ns.sample(PARAMS, wavy, x0)
    assert got.sharding.is_equivalent_to(x0.sharding, got.ndim)
    assert_close(got, run(PARAMS, wavy, x)[-1], 1e-12)


@pytest.mark.parametrize(
    "kind", first_of([AxisType.Auto, AxisType.Explicit], AxisType.Auto)
)
def test_works_inside_shard_map(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))

    def vf(t, x):
        """The samples of all devices meet in it."""
        return apply(WEIGHTS, t, x) - jax.lax.pmean(x, "data")

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data")
    )
    def local(params, x0):
        return ns.sample(params, vf, x0)

    with jax.set_mesh(mesh):
        got = local(PARAMS, sharded(mesh, P("data")))

    def whole(t, x):
        return apply_in_numpy(t, x) - x.mean(axis=0)

    assert_close(got, run(PARAMS, whole, X0)[-1], 1e-12)


def test_differentiates_inside_shard_map():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def loss(params, x0):
        return jnp.sum(jnp.square(ns.sample(params, network(), x0)))

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=P()
    )
    def local(params, x0):
        return jax.grad(loss)(params, x0)

    params = jax.tree.map(jnp.asarray, PARAMS)
    got, expected = local(params, X0), jax.jit(jax.grad(loss))(params, X0)
    for leaf, whole in zip(got, expected, strict=True):
        assert_close(leaf, whole, 1e-12)


TREE = {"image": jnp.ones((2, 3)), "text": jnp.ones(4, jnp.float32)}


@pytest.mark.parametrize(
    ("vf", "message"),
    [
        (
            lambda t, x: {**x, "image": jnp.ones((3, 2))},
            r"shape of x: at \['image'\] expected \(2, 3\), got \(3, 2\)",
        ),
        (
            lambda t, x: {**x, "image": jnp.ones(())},
            r"shape of x: at \['image'\] expected \(2, 3\), got \(\)",
        ),
        (
            lambda t, x: {**x, "text": x["text"].astype(jnp.float16)},
            r"dtype of x: at \['text'\] expected float32, got float16",
        ),
        (
            lambda t, x: {**x, "text": jnp.ones(4, jnp.int32)},
            r"dtype of x: at \['text'\] expected float32, got int32",
        ),
        (lambda t, x: x["image"], "the tree of x, .*image.*text.*, got"),
        (lambda t, x: (x["image"], x["text"]), "the tree of x, .*image.*text.*, got"),
        (lambda t, x: None, "the tree of x, .*image.*text.*, got"),
    ],
)
@pytest.mark.parametrize("function", [ns.sample, ns.sample_path])
def test_a_field_that_returns_something_else_is_named(function, vf, message):
    with pytest.raises(ValueError, match=message):
        function(PARAMS, vf, TREE)


@pytest.mark.parametrize("x0", [np.arange(3), np.array([True]), np.ones(2) * 1j, 1])
def test_noise_must_be_of_floating_point(x0):
    with pytest.raises(ValueError, match="x0 must be of a floating-point dtype, got"):
        ns.sample(PARAMS, wavy, x0)


@pytest.mark.parametrize(
    "params",
    [
        PARAMS._replace(a=np.ones(NFE + 1)),
        PARAMS._replace(times=np.ones(NFE - 1)),
        PARAMS._replace(b=np.ones((NFE, NFE + 1))),
        NSParams(np.ones(0), np.ones(0), np.ones((0, 0))),
    ],
)
def test_params_of_other_shapes_are_named(params):
    with pytest.raises(ValueError, match=r"expected times .* got shapes") as error:
        ns.sample(params, wavy, X0)
    assert all(str(np.shape(leaf)) in str(error.value) for leaf in params)


def test_a_field_that_cannot_be_called_is_named():
    with pytest.raises(ValueError, match="expected a function, got int"):
        ns.sample(PARAMS, 3, X0)


def test_a_row_without_bounds_leaves_value_and_gradient_as_they_are():
    """x_2 overflows, and x_3 does not read it: its weights in b are 0."""
    weights = jnp.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [0.3, 0.0, 0.3]])
    params = ns.NSParams(np.arange(3) / 3, jnp.array([1.0, 1e308, 1.0]), weights)
    x0 = jnp.full((2, 2), 10.0)

    def end(x0):
        return jnp.sum(bns_jax.sample(params, lambda t, x: jnp.tanh(x), x0))

    value, gradient = jax.value_and_grad(end)(x0)
    np.testing.assert_allclose(value, end(x0), rtol=1e-12)
    np.testing.assert_allclose(value, 4 * (10 + 0.3 + 0.3), rtol=1e-8)
    np.testing.assert_allclose(gradient, 1.0, atol=1e-6)


def test_iterates_before_a_field_without_bounds_are_finite():
    """So that a path says where it went wrong: Euler meets t = 0, 1/4, 1/2, 3/4."""

    def vf(t, x):
        return jnp.where(t < 0.4, x, jnp.inf)

    path = bns_jax.sample_path(solvers.euler(4), vf, np.ones((2, 3)))
    np.testing.assert_allclose(path[:, 0, 0], [1.25, 1.25**2, jnp.inf, jnp.inf])


def test_coefficients_keep_their_precision_whatever_that_of_x0():
    """1e8 - (1e8 - 0.5) is 0 in single precision."""
    weights = np.array([[0.5, 0.0], [1e8, 0.5 - 1e8]])
    params = ns.NSParams(np.array([0.0, 0.5]), np.ones(2), weights)
    got = ns.sample(params, lambda t, x: jnp.ones_like(x), X0.astype(np.float32))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, X0 + 0.5, rtol=1e-6, atol=1e-6)
