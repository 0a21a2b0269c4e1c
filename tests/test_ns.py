"""Laws of the family: the trace into it, Prop. 3.1, its size, its checks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

from bns_jax import ns, solvers
from bns_jax.ns import NSParams
from tests.fields import wavy
from tests.laws import ALL_SCHEDULERS, ALL_SOLVERS, assert_close, random_params, run

X0 = np.array([-1.1, 0.3, 0.9])

laws = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.mark.parametrize("scheduler", list(ALL_SCHEDULERS))
@pytest.mark.parametrize("solver", list(ALL_SOLVERS))
def test_a_traced_solver_is_the_solver(solver, scheduler):
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS[scheduler]
    for nfe in known.nfes(1, 4, 9, 12):
        params = known.params(nfe, path)
        ns.validate(params)
        asked = []

        def vf(t, x, asked=asked):
            asked.append(float(t))
            return wavy(t, x)

        direct = known.algorithm(nfe, path)(vf, X0)
        assert_close(run(params, wavy, X0)[-1], direct, 1e-12)
        assert_close(params.times, asked, 0.0)


@pytest.mark.parametrize("solver", list(ALL_SOLVERS))
def test_sample_of_a_traced_solver_is_the_solver(solver):
    known, path = ALL_SOLVERS[solver], ALL_SCHEDULERS["cosine"]
    nfe = known.at_least(8)
    params = known.params(nfe, path)
    direct = known.algorithm(nfe, path)(wavy, X0)
    assert_close(ns.sample(params, wavy, X0), direct, 1e-12)


def updates(times, c, d, vf, x0):
    """Eq. 10 as it is printed: x_{i+1} = X_i c_i + U_i d_i."""
    xs, us = [x0], []
    for i in range(len(times)):
        us.append(vf(times[i], xs[i]))
        past = sum(c[i, j] * xs[j] for j in range(i + 1))
        xs.append(past + sum(d[i, j] * us[j] for j in range(i + 1)))
    return np.stack(xs[1:])


@st.composite
def update_rules(draw):
    n = draw(st.integers(1, 7))
    entries = st.floats(-1.5, 1.5)
    times = np.sort(draw(hnp.arrays(np.float64, n, elements=st.floats(0, 1))))
    c, d = (draw(hnp.arrays(np.float64, (n, n), elements=entries)) for _ in "cd")
    return times, c, d


@laws
@given(update_rules())
def test_update_rules_and_their_params_run_alike(rules):
    params = ns.from_updates(*rules)
    ns.validate(params)
    assert_close(run(params, wavy, X0), updates(*rules, wavy, X0), 1e-12)


@laws
@given(update_rules())
def test_entries_above_the_diagonal_are_not_read(rules):
    times, c, d = rules
    above = np.triu(np.full_like(c, np.nan), 1)
    got = ns.from_updates(times, c + above, d + above)
    for leaf, expected in zip(got, ns.from_updates(*rules), strict=True):
        np.testing.assert_array_equal(leaf, expected)


def test_from_updates_follows_its_namespace_and_differentiates(rng):
    n = 4
    c, d = rng.normal(size=(2, n, n)) / n
    times = np.linspace(0, 0.9, n)
    in_jax = jax.jit(ns.from_updates)(*map(jnp.asarray, (times, c, d)))
    assert isinstance(ns.from_updates(times, c, d).a, np.ndarray)
    for leaf, expected in zip(in_jax, ns.from_updates(times, c, d), strict=True):
        assert_close(leaf, expected, 1e-13)

    def f(c, d):
        return ns.from_updates(jnp.asarray(times), c, d)

    check_grads(jax.jit(f), (c, d), order=1, modes=["rev"])


@pytest.mark.parametrize(
    "shapes", [((2,), (2, 2), (3, 3)), ((2, 1), (2, 2), (2, 2)), ((0,), (0, 0), (0, 0))]
)
def test_from_updates_names_the_shapes(shapes):
    with pytest.raises(ValueError, match="got shapes") as error:
        ns.from_updates(*map(np.zeros, shapes))
    assert all(str(shape) in str(error.value) for shape in shapes)


@laws
@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_from_solver_undoes_as_solver(nfe, seed):
    params = random_params(np.random.default_rng(seed), nfe)
    again = ns.from_solver(ns.as_solver(params), nfe)
    for leaf, expected in zip(again, params, strict=True):
        assert_close(leaf, expected, 1e-14)


def test_as_solver_runs_eq_11(rng):
    params = random_params(rng, 5)
    assert_close(ns.as_solver(params)(wavy, X0), run(params, wavy, X0)[-1], 1e-13)


def test_size_of_the_family_is_that_of_table_3():
    assert [ns.num_params(n) for n in (4, 8, 16)] == [18, 52, 168]


@given(st.integers(1, 50))
@laws
def test_size_of_the_family_counts_its_free_numbers(n):
    assert ns.num_params(n) == n + n + np.count_nonzero(np.tri(n))


def good(n=3):
    return NSParams(np.linspace(0, 0.8, n), np.ones(n), np.tri(n) / n)


def with_entry(name, index, value):
    array = np.array(getattr(good(), name))
    array[index] = value
    return good()._replace(**{name: array})


def test_validate_accepts_good_solvers():
    ns.validate(good())
    ns.validate(good(1))
    ns.validate(with_entry("times", 1, 0.0))
    ns.validate(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), good()))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (with_entry("times", 1, np.nan), r"times must be finite, got nan at .*\(1,\)"),
        (with_entry("a", 2, np.inf), r"a must be finite, got inf at index \(2,\)"),
        (with_entry("b", (2, 0), np.nan), r"b must be finite, got nan at .*\(2, 0\)"),
        (with_entry("times", 1, 0.9), "times must be sorted, got 0.9 before 0.8"),
        (with_entry("times", 0, -0.5), r"times must lie in \[0, 1\], got .*-0.5 to"),
        (with_entry("times", 2, 1.5), r"times must lie in \[0, 1\], got .* to 1.5"),
        (with_entry("b", (0, 2), 4.0), r"lower triangular, got b\[0, 2\] = 4.0"),
        (good()._replace(a=np.ones(4)), r"got shapes \(3,\), \(4,\), \(3, 3\)"),
        (good()._replace(b=np.ones(3)), r"got shapes \(3,\), \(3,\), \(3,\)"),
        (NSParams(np.ones(0), np.ones(0), np.ones((0, 0))), "n >= 1"),
        (NSParams(0.5, 1.0, 1.0), r"got shapes \(\), \(\), \(\)"),
    ],
)
def test_validate_names_what_came(params, message):
    with pytest.raises(ValueError, match=message):
        ns.validate(params)


def euler(steps, h=None):
    h = 1.0 / steps if h is None else h

    def algorithm(vf, x):
        for i in range(steps):
            x = x + h * vf(i * h, x)
        return x

    return algorithm


@pytest.mark.parametrize("nfe", [1, 2, 4, 9])
def test_the_number_of_calls_is_checked(nfe):
    with pytest.raises(ValueError, match=f"exactly nfe = {nfe} times"):
        ns.from_solver(euler(3), nfe)


@pytest.mark.parametrize("nfe", [0, -1])
def test_nfe_is_checked(nfe):
    with pytest.raises(ValueError, match=f"nfe must be at least 1, got {nfe}"):
        ns.from_solver(euler(1), nfe)


def heun_euler(vf, x, *, tolerance=1e-2):
    """Adaptive Heun-Euler with step rejection."""
    t, h = 0.0, 0.25
    u = vf(t, x)
    while t < 1.0:
        h = min(h, 1.0 - t)
        u_next = vf(t + h, x + h * u)
        error = np.max(np.abs(h / 2 * (u_next - u))) / tolerance
        if error <= 1.0:
            t, x = t + h, x + h / 2 * (u + u_next)
            u = vf(t, x)
        h = h * np.clip(0.9 / np.sqrt(error + 1e-12), 0.2, 5.0)
        if t > 1.0 - 1e-9:
            break
    return x


def calls_in_a_trace(algorithm):
    calls = []

    def vf(t, x):
        calls.append(t)
        return np.eye(500)[len(calls)]

    algorithm(vf, np.eye(500)[0])
    return len(calls)


@pytest.mark.parametrize("tolerance", [3e-2, 0.3, 10.0])
def test_an_adaptive_algorithm_is_refused_for_every_nfe(tolerance):
    def algorithm(vf, x):
        return heun_euler(vf, x, tolerance=tolerance)

    calls = calls_in_a_trace(algorithm)
    for nfe in {1, 2, 5, calls - 1, calls, calls + 1}:
        with pytest.raises(ValueError, match=r"adaptive|exactly nfe"):
            ns.from_solver(algorithm, nfe)
    with pytest.raises(ValueError, match="adaptive"):
        ns.from_solver(algorithm, calls)


@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_a_loop_under_while_loop_is_refused(nfe):
    def algorithm(vf, x):
        def body(carry):
            t, x = carry
            return t + 0.25, x + 0.25 * vf(t, x)

        start = (jnp.asarray(0.0), jnp.asarray(x))
        return jax.lax.while_loop(lambda carry: carry[0] < 1.0, body, start)[1]

    with pytest.raises(ValueError, match=r"while_loop|exactly nfe"):
        ns.from_solver(algorithm, nfe)


@pytest.mark.parametrize("nfe", [1, 3])
def test_a_loop_under_scan_is_refused(nfe):
    def algorithm(vf, x):
        def step(x, t):
            return x + vf(t, x) / 3, None

        return jax.lax.scan(step, jnp.asarray(x), jnp.linspace(0.0, 0.9, 3))[0]

    with pytest.raises(ValueError, match=r"scan|exactly nfe"):
        ns.from_solver(algorithm, nfe)


@pytest.mark.parametrize("size", [4e3, 1e8])
def test_large_coefficients_that_cancel_are_linear_all_the_same(size):
    """Their rounding is that of the large terms: 1e8 eps is 2e-8."""

    def algorithm(vf, x):
        u = vf(0.0, x)
        far = x + size * u
        return (far - size * u) + 0.5 * vf(0.5, far)

    _, a, b = ns.from_solver(algorithm, 2)
    assert_close(a, [1.0, 1.0], 1e-7)
    assert_close(b, [[size, 0.0], [0.0, 0.5]], 1e-7)


@pytest.mark.parametrize(
    "algorithm",
    [
        lambda vf, x: x + vf(0.0, x) ** 2,
        lambda vf, x: x * vf(0.0, x),
        lambda vf, x: x + vf(0.0, x) + 1e-3,
        lambda vf, x: x + vf(0.0, x) / np.linalg.norm(x),
        lambda vf, x: np.clip(x + vf(0.0, x), -1.0, 1.0),
    ],
    ids=["square", "product", "offset", "norm", "clip"],
)
def test_an_algorithm_that_is_not_linear_is_refused(algorithm):
    with pytest.raises(ValueError, match="not linear"):
        ns.from_solver(algorithm, 1)


def test_times_that_depend_on_the_data_are_refused():
    def algorithm(vf, x):
        u = vf(0.0, x)
        return x + vf(1.0 / (2.0 + np.sum(u**2)), x + 0.5 * u)

    with pytest.raises(ValueError, match="depend on the data"):
        ns.from_solver(algorithm, 2)


def test_the_first_call_must_be_at_x0():
    with pytest.raises(ValueError, match=r"first call .* at x0.* at 2.0 x0"):
        ns.from_solver(lambda vf, x: x + vf(0.0, 2.0 * x), 1)


def test_the_shape_of_x1_is_checked():
    with pytest.raises(ValueError, match=r"expected \(2,\), got \(\)"):
        ns.from_solver(lambda vf, x: np.sum(vf(0.0, x)), 1)


def test_coefficients_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        ns.from_solver(lambda vf, x: x + np.nan * vf(0.0, x), 1)


def warped_midpoint(theta):
    """A solver with learnable steps and weights."""

    def algorithm(vf, x):
        t = 0.0
        for h, w in zip(theta["steps"], theta["weights"], strict=True):
            u = vf(t, x)
            middle = vf(t + h / 2, x + h / 2 * u)
            x, t = x + h * (w * middle + (1 - w) * u), t + h
        return x

    return ns.from_solver(algorithm, 2 * len(theta["steps"]))


THETA = {"steps": jnp.asarray([0.3, 0.6]), "weights": jnp.asarray([0.8, 1.1])}


def test_a_trace_under_jit_is_the_trace():
    concrete = warped_midpoint(jax.tree.map(np.asarray, THETA))
    for leaf, expected in zip(jax.jit(warped_midpoint)(THETA), concrete, strict=True):
        assert isinstance(leaf, jax.Array)
        assert_close(leaf, expected, 1e-14)


def test_a_trace_is_differentiable():
    check_grads(jax.jit(warped_midpoint), (THETA,), order=1, modes=["fwd", "rev"])


@pytest.mark.parametrize("more", [0, 1, 2, 5])
def test_an_extended_solver_computes_the_same_with_more_evaluations(rng, more):
    for params in (random_params(rng, 4), solvers.heun(4), solvers.euler(1)):
        nfe = len(params.a)
        extended = ns.extend(params, nfe + more)
        ns.validate(extended)
        assert len(extended.a) == nfe + more
        x0 = rng.normal(size=(3, 2))
        before, after = (run(p, wavy, x0) for p in (params, extended))
        assert_close(after[-1], before[-1], 1e-12)


def test_an_extended_solver_calls_the_field_where_its_steps_were_largest():
    params = solvers.euler(3, grid=[0.0, 0.1, 0.5, 1.0])
    np.testing.assert_allclose(
        ns.extend(params, 5).times, [0.0, 0.1, 0.3, 0.5, 0.75], rtol=1e-15
    )


def test_a_solver_cannot_be_extended_to_fewer_evaluations():
    with pytest.raises(ValueError, match="at least the solver's 4 evaluations"):
        ns.extend(solvers.midpoint(4), 3)
