"""Laws of the reference solves: closed-form flows, calls counted, samples alone."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import ground_truth, schedulers, velocity

from . import problems
from .laws import first_cases, first_of
from .problems import SCHEDULERS

TIMES = np.array([0.0, 0.3, 0.77, 1.0])


def solve(field, x0, *args, tolerance=1e-8, **kwargs):
    kwargs = {"save_at": TIMES, "rtol": tolerance, "atol": tolerance} | kwargs
    return ground_truth.pairs(field, x0, *args, **kwargs)


def scale_of(scheduler):
    return float(scheduler.sigma(0.0))


def assert_close(got, expected, tolerance, scale=1.0):
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


# An eps-prediction has no velocity where alpha_0 = 0: cond_ot and cosine.
@pytest.mark.parametrize(
    ("prediction", "name"),
    first_cases(
        [("epsilon", "vp"), ("data", "cond_ot"), ("v", "cosine"), ("denoiser", "ve")],
        ("denoiser", "ve"),
    ),
)
def test_models_follow_the_closed_form_flow_to_the_end(prediction, name):
    scheduler = SCHEDULERS[name]
    x0 = problems.noise(3, scale=scale_of(scheduler))
    solved = solve(problems.model(prediction, scheduler), x0)
    assert_close(solved.x1, problems.flow(scheduler, x0, 1.0), 1e-6)
    for t, x in zip(TIMES, solved.path, strict=True):
        # Points inside a step come from an interpolant of lower order.
        assert_close(x, problems.flow(scheduler, x0, t), 1e-5, scale_of(scheduler))
    assert_close(solved.path[-1], solved.x1, 1e-12)
    assert_close(solved.path[0], x0, 1e-12, scale_of(scheduler))


@pytest.mark.parametrize("name", first_of(["plain", "epsilon-vp"], "plain"))
def test_float32_stays_float32_and_is_accurate(name):
    scheduler = SCHEDULERS["cond_ot" if name == "plain" else "vp"]
    if name == "plain":
        field = problems.plain(scheduler)
    else:
        field = problems.model("epsilon", scheduler)
    x0 = problems.noise(3, dtype=np.float32)
    solved = solve(field, x0, tolerance=1e-6)
    assert {leaf.dtype for leaf in (solved.x1, solved.path)} == {np.dtype(np.float32)}
    assert_close(solved.x1, problems.flow(scheduler, x0, 1.0), 3e-5)
    assert_close(solved.path[-1], solved.x1, 1e-5)


@pytest.mark.exhaustive
def test_without_x64_all_of_a_pair_is_float32():
    x0 = problems.noise(2)
    with jax.enable_x64(False):
        solved = solve(problems.plain(SCHEDULERS["cond_ot"]), x0, tolerance=1e-3)
    of_pair = solved.x0, solved.x1, solved.path
    assert {leaf.dtype for leaf in of_pair} == {np.dtype(np.float32)}
    assert_close(solved.x0, x0, 1e-6)


@pytest.mark.parametrize("name", first_of(["cond_ot", "ve"], "cond_ot"))
def test_plain_fields_meet_the_closed_form_as_the_tolerance_shrinks(name):
    scheduler = SCHEDULERS[name]
    x0 = problems.noise(3, scale=scale_of(scheduler))
    exact = problems.flow(scheduler, x0, 1.0)
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        solved = solve(problems.plain(scheduler), x0, tolerance=tolerance)
        errors.append(np.abs(solved.x1 - exact).max())
        calls.append(solved.nfe.sum())
        assert errors[-1] < 100 * tolerance
        assert_close(solved.path[-1], solved.x1, 1e-12)
    for loose, tight in itertools.pairwise(errors):
        assert tight < loose / 5
    assert np.all(np.diff(calls) > 0)


DISCRETE = schedulers.from_alphas_cumprod(np.linspace(0.99, 0.3, 20))


def doubtful(t, x, broken):
    """The optimal network of noise, but for the samples of which it knows none late."""
    noise = problems.model("epsilon", DISCRETE).network(t, x)
    return jnp.where(broken[:, None] & (t > 0.6), jnp.nan, noise)


DOUBTFUL = velocity.from_epsilon(doubtful, DISCRETE)


@pytest.mark.exhaustive
def test_model_times_are_shared_with_the_field_not_with_its_coordinates():
    # A discrete-time model whose alpha_0 is far from 0 starts in the middle of the
    # cond-OT path; its own times still run from 0 to 1.
    x0 = problems.noise(3)
    solved = solve(DOUBTFUL, x0, np.zeros(3, bool))
    # log alpha is only piecewise linear, so the field has kinks.
    assert_close(solved.x1, problems.flow(DISCRETE, x0, 1.0), 1e-4)
    assert_close(solved.path[1], problems.flow(DISCRETE, x0, TIMES[1]), 1e-4)


# --- counting and independence -------------------------------------------------------


CALLS = []


def counted(t, x):
    """x' = cos(8 t) x, and a mark in CALLS whenever it is evaluated."""
    jax.debug.callback(lambda: CALLS.append(1))
    return jnp.cos(8 * t) * x


@pytest.fixture
def calls():
    CALLS.clear()

    def count():
        jax.effects_barrier()
        return len(CALLS)

    return count


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_nfe_is_the_true_number_of_calls(calls, tolerance):
    solved = solve(counted, problems.noise(1), tolerance=tolerance)
    first_look = 7  # At five times, and at two of them about its only sample.
    assert solved.nfe == calls() - first_look
    assert (solved.nfe[0] - 1) % 6 == 0


def test_a_sample_does_not_depend_on_its_companions():
    field = problems.plain(SCHEDULERS["cond_ot"])
    x0 = problems.noise(3) * np.array([[0.1], [10.0], [1.0]])
    together = solve(field, x0)
    for other in (0, 1):
        two = solve(field, x0[[other, 2]])
        assert together.nfe[2] == two.nfe[1]
        assert_close(together.x1[2], two.x1[1], 1e-12)
        assert_close(together.path[:, 2], two.path[:, 1], 1e-12)


@pytest.mark.parametrize("chunk", first_of([1, 2, 100], 2, 100))
def test_the_chunk_size_changes_nothing(chunk):
    field, x0 = problems.plain(SCHEDULERS["cond_ot"]), problems.noise(3)
    whole, parts = solve(field, x0), solve(field, x0, chunk=chunk)
    np.testing.assert_array_equal(parts.nfe, whole.nfe)
    for got, expected in zip(
        jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True
    ):
        assert got.shape == expected.shape
        assert_close(got, expected, 1e-12)


def test_progress_counts_samples():
    seen = []
    solve(
        problems.plain(SCHEDULERS["cond_ot"]),
        problems.noise(3),
        chunk=2,
        report=lambda done, total, note="": seen.append((done, total)),
    )
    assert seen == [(2, 3), (3, 3)]


def test_pytrees_and_several_arguments_reach_the_field_sample_by_sample():
    def field(t, x, rate, other):
        del t
        return {
            "grows": rate[:, None] * x["grows"],
            "moves": jnp.ones_like(x["moves"]) * other["shift"][:, :, None],
        }

    rng = np.random.default_rng(0)
    x0 = {"grows": rng.normal(size=(3, 2)), "moves": rng.normal(size=(3, 2, 4))}
    rate, shift = np.array([-1.0, 0.5, 2.0]), rng.normal(size=(3, 2))
    solved = solve(field, x0, rate, {"shift": shift}, chunk=2, save_at=None)
    assert_close(solved.x1["grows"], x0["grows"] * np.exp(rate)[:, None], 1e-6)
    assert_close(solved.x1["moves"], x0["moves"] + shift[:, :, None], 1e-12)
    np.testing.assert_array_equal(solved.args[1]["shift"], shift)
    # Without save_at the path has 21 uniform times.
    np.testing.assert_array_equal(solved.times, np.linspace(0, 1, 21))
    assert (solved.size, solved.path["moves"].shape) == (3, (21, 3, 2, 4))
    grown = x0["grows"] * np.exp(rate * solved.times[6])[:, None]
    assert_close(solved.path["grows"][6], grown, 1e-5)


# --- solves that fail ----------------------------------------------------------------


def failure(field, x0, *args, **kwargs):
    """(sample, time, steps) that the error names."""
    pattern = r"sample (\d+) stopped at t = ([\d.e+-]+) after (\d+) steps"
    with pytest.raises(ValueError, match=pattern) as caught:
        solve(field, x0, *args, **kwargs)
    sample, time, steps = re.search(pattern, str(caught.value)).groups()
    return int(sample), float(time), int(steps)


def troubled(t, x, kind):
    """x' = sin(5 t) x, with a trouble of its own for each sample."""
    kind = kind[:, None]
    late = jnp.where(kind == 1, jnp.nan, jnp.inf)
    u = jnp.where((kind > 0) & (t > 0.4), late, jnp.sin(5 * t) * x)
    return jnp.where(kind == 3, x**2, jnp.where(kind == 4, jnp.nan, u))


@pytest.mark.parametrize("kind", [1, 2], ids=["nan", "inf"])
def test_a_field_that_turns_non_finite_is_named_by_sample_and_time(kind):
    kinds = kind * np.array([0, 0, 0, 1, 1])
    sample, time, steps = failure(troubled, problems.noise(5), kinds, chunk=2)
    assert sample == 3
    assert 0.35 < time <= 0.4
    assert steps < 200


def test_a_blow_up_is_named_by_its_time():
    # x' = x^2 from x(0) = 2 is infinite at t = 1/2; from 1/2 it lives until t = 2.
    x0 = np.repeat([[0.5], [2.0], [0.5], [0.5], [0.5]], 3, axis=1)
    sample, time, _ = failure(troubled, x0, np.full(5, 3), chunk=2)
    assert sample == 1
    assert abs(time - 0.5) < 1e-3


@pytest.mark.exhaustive
def test_a_model_that_turns_non_finite_is_named_by_its_own_time():
    sample, time, steps = failure(DOUBTFUL, problems.noise(3), np.arange(3) > 0)
    assert sample == 1
    assert 0.5 < time <= 0.6
    assert steps < 200


def test_a_field_that_is_never_finite_fails_at_once():
    _, time, steps = failure(troubled, problems.noise(5), np.full(5, 4), chunk=2)
    assert time == 0.0
    assert steps < 200


# --- bad input -----------------------------------------------------------------------


def unreachable(t, x, *args):
    raise AssertionError("bad input must be refused before the field is called")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"x0": np.array([[1.0], [np.nan]])}, "x0 must be finite, sample 1"),
        ({"x0": {"a": np.array([[np.inf]])}}, r"x0\['a'\] must be finite, sample 0"),
        ({"x0": np.zeros((2, 3), int)}, "floating-point dtype, got int64"),
        ({"x0": np.zeros((2, 3), complex)}, "floating-point dtype, got complex128"),
        ({"x0": np.zeros((2, 3), np.float16)}, "float32 or float64, got float16"),
        ({"x0": np.zeros((0, 3))}, "at least one sample"),
        ({"x0": np.array(1.0)}, "leading batch axis"),
        ({"x0": {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}}, r"x0\['b'\] \(3,\)"),
        ({"args": (np.zeros(3),)}, r"x0 \(2,\), args\[0\] \(3,\)"),
        ({"save_at": [0.5, 0.2]}, "sorted times"),
        ({"save_at": [0.5, 1.5]}, "sorted times"),
        ({"save_at": [-0.1, 1.0]}, "sorted times"),
        ({"save_at": [0.0, np.nan]}, "sorted times"),
        ({"save_at": [[0.0, 1.0]]}, "sorted times"),
        ({"save_at": []}, "save_at"),
        ({"rtol": 0.0}, "rtol must be positive and finite, got 0.0"),
        ({"atol": -1e-5}, "atol must be positive and finite, got -1e-05"),
        ({"rtol": np.nan}, "rtol must be positive and finite, got nan"),
        ({"atol": np.inf}, "atol must be positive and finite, got inf"),
        ({"chunk": 1.5}, "chunk must be a whole number, got 1.5"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"chunk": -3}, "chunk must be at least 1, got -3"),
    ],
)
def test_bad_input_is_named_before_the_field_is_called(kwargs, message):
    x0, args = kwargs.pop("x0", np.zeros((2, 3))), kwargs.pop("args", ())
    with pytest.raises(ValueError, match=message):
        ground_truth.pairs(unreachable, x0, *args, **kwargs)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (lambda t, x: x[:, :1], "shape of x"),
        (lambda t, x: x[0], "shape of x"),
        (lambda t, x: x.astype(jnp.float16), "dtype of x"),
        (lambda t, x: {"x": x}, "tree of x"),
    ],
    ids=["shape", "rank", "dtype", "tree"],
)
def test_a_field_that_returns_something_else_is_named(field, message):
    with pytest.raises(ValueError, match=f"velocity field must return the {message}"):
        solve(field, problems.noise(2))


def test_a_field_that_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="expected a function, got int"):
        ground_truth.pairs(3, problems.noise(2))
