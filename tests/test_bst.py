"""Laws of bespoke scale-time solvers and of the loss that they were made for."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
from scipy.interpolate import CubicSpline

from bns_jax import distill, families, ns, scale_time, schedulers, solvers
from bns_jax.distill.batch import Path
from bns_jax.families import BSTTheta
from bns_jax.families.spline import check_covers, interpolate
from bns_jax.scale_time import ScaleTime
from tests.fields import Linear
from tests.laws import assert_close, first_cases, first_of, run

TABLEAUS = {"euler": solvers.EULER, "midpoint": solvers.MIDPOINT}
NFE = 4
TIMES = np.linspace(0.0, 1.0, 21)

each_base = pytest.mark.parametrize("base", list(TABLEAUS))
midpoint_first = pytest.mark.parametrize("base", first_of(TABLEAUS, "midpoint"))
each_steps = pytest.mark.parametrize("steps", [1, 2, 4])

FAMILY = {base: families.bst(base, NFE) for base in TABLEAUS}


@functools.cache
def compiled(base, nfe):
    return jax.jit(families.bst(base, nfe).to_params)


TO_PARAMS = {base: compiled(base, NFE) for base in TABLEAUS}


def sizes(nfe):
    return nfe - 1, nfe, nfe, nfe


def thetas(nfe=NFE, bound=30.0):
    numbers = st.floats(-bound, bound, allow_subnormal=False)
    leaves = (hnp.arrays(np.float64, size, elements=numbers) for size in sizes(nfe))
    return st.builds(BSTTheta, *leaves)


def random_theta(nfe, seed=0, scale=0.3):
    rng = np.random.default_rng(seed)
    return BSTTheta(*(scale * rng.normal(size=n) for n in sizes(nfe)))


def sampled(change, nfe):
    """The theta whose knots are those of a smooth transformation with s_0 = 1."""
    r = np.arange(nfe + 1) / nfe
    steps = np.diff(change.t(r))
    return BSTTheta(
        np.log(steps[:-1] / steps[-1]),
        np.log(change.d_t(r[:-1])),
        np.log(change.s(r[1:])),
        change.d_s(r[:-1]),
    )


def by_hand(theta):
    """t and s at the knots, t' and s' before them, in NumPy."""
    steps = np.exp(np.append(theta.steps, 0.0))
    t = np.append(0.0, np.cumsum(steps) / np.sum(steps))
    return t, np.append(1.0, np.exp(theta.scales)), np.exp(theta.rates), theta.slopes


WAVE = ScaleTime(
    lambda r: r + 0.1 * np.sin(2 * np.pi * r),
    lambda r: np.exp(0.4 * np.sin(3 * r)),
    lambda r: 1 + 0.2 * np.pi * np.cos(2 * np.pi * r),
    lambda r: 1.2 * np.cos(3 * r) * np.exp(0.4 * np.sin(3 * r)),
)
CHANGES = {
    "wave": WAVE,
    "cosine": scale_time.between(schedulers.cond_ot(), schedulers.cosine()),
}


# The family.


@each_base
@each_steps
def test_the_start_is_the_base_method(base, steps):
    nfe = TABLEAUS[base].stages * steps
    family = families.bst(base, nfe)
    expected = solvers.runge_kutta(nfe, TABLEAUS[base])
    assert all(np.all(leaf == 0) for leaf in family.theta)
    for got, leaf in zip(compiled(base, nfe)(family.theta), expected, strict=True):
        assert_close(got, leaf, 1e-14)


@each_base
@each_steps
@pytest.mark.parametrize("change", list(CHANGES))
def test_knots_of_a_smooth_transformation_give_the_solver_under_it(base, steps, change):
    nfe, change = TABLEAUS[base].stages * steps, CHANGES[change]
    algorithm = solvers.RungeKutta(TABLEAUS[base]).algorithm(nfe)
    expected = ns.from_solver(scale_time.under(algorithm, change), nfe)
    got = compiled(base, nfe)(sampled(change, nfe))
    for leaf, other in zip(got, expected, strict=True):
        assert_close(leaf, other, 1e-12)


@each_base
@given(theta=thetas())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_every_theta_is_a_valid_solver(base, theta):
    params = TO_PARAMS[base](theta)
    ns.validate(params)
    assert params.times[0] == 0.0


@each_base
@given(theta=thetas(bound=3.0))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_times_increase_strictly(base, theta):
    times = TO_PARAMS[base](theta).times
    assert np.all(np.diff(times) > 0) and times[-1] < 1


@each_base
@each_steps
def test_theta_has_the_free_numbers_of_the_knots(base, steps):
    """4 n - 1 for n steps of Euler's method, 8 n - 1 for the midpoint method."""
    stages = TABLEAUS[base].stages
    theta = families.bst(base, stages * steps).theta
    assert sum(map(np.size, theta)) == 4 * stages * steps - 1


@pytest.mark.parametrize(
    ("base", "directions"),
    first_cases([("euler", 3), ("midpoint", 7)], ("midpoint", 7)),
)
def test_the_solvers_vary_in_fewer_directions(base, directions):
    family = families.bst(base, 3 * TABLEAUS[base].stages)
    theta = random_theta(3 * TABLEAUS[base].stages)
    flat, unflatten = ravel_pytree(theta)
    jacobian = jax.jit(
        jax.jacobian(lambda flat: ravel_pytree(family.to_params(unflatten(flat)))[0])
    )(flat)
    assert np.linalg.matrix_rank(jacobian, rtol=1e-10) == directions * 3 - 1


@midpoint_first
def test_the_family_is_differentiable(base):
    check_grads(TO_PARAMS[base], (random_theta(NFE),), order=1, modes=["rev"])


def test_a_scale_that_follows_the_field_makes_euler_exact():
    """With s_r = exp(-rate r), x_bar stands still where x' = rate x."""
    nfe, rate = 3, -1.7
    r = np.arange(nfe + 1) / nfe
    s = np.exp(-rate * r)
    theta = BSTTheta(np.zeros(nfe - 1), np.zeros(nfe), -rate * r[1:], -rate * s[:-1])
    params = compiled("euler", nfe)(theta)
    got = run(params, lambda t, x: rate * x, np.ones(1))
    assert_close(got[:, 0], np.exp(rate * r[1:]), 1e-14)


@pytest.mark.parametrize("base", ["heun", "", "Euler"])
def test_only_known_methods_are_a_base(base):
    message = f"base must be one of euler, midpoint, got '{base}'"
    with pytest.raises(ValueError, match=message):
        families.bst(base, 4)
    with pytest.raises(ValueError, match=message):
        distill.bespoke_loss(base)


@pytest.mark.parametrize(("base", "nfe"), [("midpoint", 3), ("midpoint", 0)])
def test_evaluations_are_whole_steps(base, nfe):
    with pytest.raises(ValueError, match=f"positive multiple of 2, got {nfe}"):
        families.bst(base, nfe)
    with pytest.raises(ValueError, match="positive multiple of 1, got 0"):
        families.bst("euler", 0)


# The true trajectory between its points.


@pytest.mark.parametrize("count", [4, 5, 21])
@pytest.mark.parametrize("even", [True, False])
def test_the_path_between_its_points_is_the_spline_of_scipy(rng, count, even):
    times = np.linspace(0.0, 1.0, count) if even else np.sort(rng.uniform(size=count))
    path = rng.normal(size=(count, 2, 3))
    t = rng.uniform(times[0], times[-1], size=17)
    t = np.concatenate([t, times])
    expected = CubicSpline(times, path, bc_type="not-a-knot")
    at = jax.jit(functools.partial(interpolate, times, path))
    got, slopes = jax.jvp(at, (t,), (np.ones_like(t),))
    assert_close(got, expected(t), 1e-11)
    assert_close(slopes, expected(t, 1), 1e-9)


def test_times_that_are_traced_are_left_to_whoever_traces():
    for times in (TIMES[::-1], TIMES[:-1], TIMES + 1e-3):
        with pytest.raises(ValueError, match="times of the path must increase from 0"):
            check_covers(times)
        jax.eval_shape(check_covers, times)


def test_the_path_is_interpolated_under_a_trace_and_in_its_own_dtypes(rng):
    path = {"x": rng.normal(size=(21, 2)).astype(np.float32)}
    t = np.linspace(0.0, 1.0, 9)
    traced = jax.jit(interpolate)(TIMES, path, t)
    assert traced["x"].dtype == jnp.float32
    expected = CubicSpline(TIMES, path["x"], bc_type="not-a-knot")(t)
    assert_close(traced["x"], expected, 1e-6)


# The loss.


def sine(t, x):
    """x' = sin x, of the Lipschitz constant 1."""
    return jax.tree.map(lambda x: jnp.sin(x), x)


def sine_path(x0, times=TIMES):
    """Its flow: tan(x / 2) grows like exp(t)."""
    t = np.reshape(times, (-1, 1, 1))
    return 2 * np.arctan(np.tan(x0[None] / 2) * np.exp(t))


def start(rng, batch=6):
    return rng.uniform(-3.0, 3.0, size=(batch, 3))


def losses(objective, theta, vf, times, path, args=()):
    """What an objective says of the pairs on a path, (K, batch, ...)."""
    x0, x1 = (jax.tree.map(lambda leaf, k=k: leaf[k], path) for k in (0, -1))
    points = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), path)
    trajectory = Path(points, tuple(map(float, times)))
    count = len(jax.tree.leaves(x0)[0])
    batch = distill.Batch(x0, x1, args, np.ones(count), trajectory)
    to_params = families.bst("euler", len(theta.rates)).to_params
    return objective.loss(objective.rollout(to_params, theta, vf, batch), batch)


@functools.cache
def loss_of(base, lipschitz=1.0):
    objective = distill.bespoke_loss(base, lipschitz=lipschitz)

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def traced(theta, vf, times, path, args):
        return losses(objective, theta, vf, times, path, args)

    return lambda theta, vf, times, path, args=(): traced(
        theta, vf, tuple(map(float, times)), path, args
    )


def distance(x, y):
    return np.sqrt(np.mean((np.asarray(x) - np.asarray(y)) ** 2, axis=1))


LINEAR = Linear()
STEEPEST = max(abs(LINEAR.rate), abs(LINEAR.rate + 2 * LINEAR.slope))
PROBLEMS = {
    "linear": (
        LINEAR.velocity,
        lambda x0: np.stack([LINEAR.flow(0.0, t, x0) for t in TIMES]),
        STEEPEST,
    ),
    "sine": (sine, sine_path, 1.0),
}
each_problem = pytest.mark.parametrize("problem", list(PROBLEMS))


@pytest.mark.parametrize(
    ("base", "problem"),
    first_cases(
        itertools.product(TABLEAUS, PROBLEMS), ("midpoint", "linear"), ("euler", "sine")
    ),
)
def test_the_loss_bounds_the_error(rng, base, problem):
    vf, flow, lipschitz = PROBLEMS[problem]
    path = flow(start(rng))
    for seed in range(10):
        theta = random_theta(NFE, seed)
        bound = loss_of(base, lipschitz)(theta, vf, TIMES, path)
        error = distance(ns.sample(TO_PARAMS[base](theta), vf, path[0]), path[-1])
        assert np.all(error <= bound + 1e-6)
        assert np.all(bound <= 100 * error.max())


@each_base
@each_problem
def test_the_loss_of_one_step_is_its_error(rng, base, problem):
    vf, flow, _ = PROBLEMS[problem]
    nfe, path = TABLEAUS[base].stages, flow(start(rng))
    theta = random_theta(nfe)
    got = loss_of(base)(theta, vf, TIMES, path)
    x = ns.sample(compiled(base, nfe)(theta), vf, path[0])
    assert_close(got, distance(x, path[-1]), 1e-13)


def euler_by_hand(knots, h, lipschitz, u, x):
    """One step from knot 0 to knot 1, and its Lipschitz constant."""
    t, s, d_t, d_s = knots
    x = (s[0] + h * d_s[0]) / s[1] * x + h * d_t[0] * s[0] / s[1] * u(t[0], x)
    grows = abs(s[0] + h * d_s[0]) / s[1] + h * d_t[0] * s[0] / s[1] * lipschitz
    return x, grows


def midpoint_by_hand(knots, h, lipschitz, u, x):
    t, s, d_t, d_s = knots
    u_0 = u(t[0], x)
    p, q = (s[0] + h / 2 * d_s[0]) / s[1], h / 2 * d_t[0] * s[0] / s[1]
    c, d = (s[0] + h * d_s[1] * p) / s[2], h * d_s[1] * q / s[2]
    e = h * d_t[1] * s[1] / s[2]
    grows = abs(c) + abs(d) * lipschitz + e * lipschitz * (abs(p) + q * lipschitz)
    return c * x + d * u_0 + e * u(t[1], p * x + q * u_0), grows


BY_HAND = {"euler": euler_by_hand, "midpoint": midpoint_by_hand}


@each_base
def test_the_loss_of_three_steps_is_that_by_hand(rng, base):
    """sum_i d_i prod_{j > i} L_j, with the true points in closed form."""
    stages, lipschitz, x0 = TABLEAUS[base].stages, 0.8, start(rng)
    theta = random_theta(3 * stages)
    t, s, d_t, d_s = by_hand(theta)
    errors, growths = [], []
    for i in range(3):
        k = slice(i * stages, (i + 1) * stages + 1)
        knots = t[k], s[k], d_t[k], d_s[k]
        x = LINEAR.flow(0.0, t[k][0], x0)
        x, grows = BY_HAND[base](knots, 1 / 3, lipschitz, LINEAR.velocity, x)
        errors.append(distance(x, LINEAR.flow(0.0, t[k][-1], x0)))
        growths.append(grows)
    expected = sum(error * np.prod(growths[i + 1 :]) for i, error in enumerate(errors))
    times = np.linspace(0.0, 1.0, 201)
    path = np.stack([LINEAR.flow(0.0, t, x0) for t in times])
    got = loss_of(base, lipschitz)(theta, LINEAR.velocity, times, path)
    assert_close(got, expected, 1e-9)


@each_base
@pytest.mark.parametrize("lipschitz", first_of([0.5, 3.0], 0.5))
def test_the_bound_is_no_looser_than_that_of_the_transformed_field(base, lipschitz):
    """The field of x_bar has the constant |s'| / s + t' L at each knot."""
    stages, path = TABLEAUS[base].stages, sine_path(np.ones((1, 1)))
    theta = random_theta(3 * stages)
    t, s, d_t, d_s = by_hand(theta)
    rates = np.abs(d_s) / s[:-1] + d_t * lipschitz
    bound = 0.0
    for k in range(0, 3 * stages, stages):
        grows = (
            1 + rates[k] / 3
            if stages == 1
            else (1 + rates[k + 1] / 3 * (1 + rates[k] / 6))
        )
        x = 2 * np.arctan(np.tan(0.5) * np.exp(t[k::stages][:2]))
        knots = t[k:], s[k:], d_t[k:], d_s[k:]
        reached, _ = BY_HAND[base](knots, 1 / 3, lipschitz, sine, x[0])
        bound = s[k] / s[k + stages] * grows * bound + abs(reached - x[1])
    assert loss_of(base, lipschitz)(theta, sine, TIMES, path)[0] <= bound + 1e-6


@midpoint_first
def test_a_solver_without_error_has_no_loss_and_a_finite_gradient(base):
    path = np.tile(TIMES[:, None, None], (1, 2, 3))

    def mean(theta):
        return jnp.mean(loss_of(base)(theta, lambda t, x: x * 0 + 1, TIMES, path))

    value, gradient = jax.jit(jax.value_and_grad(mean))(FAMILY[base].theta)
    assert value < 1e-13
    assert all(np.all(np.isfinite(leaf)) for leaf in gradient)


@midpoint_first
def test_the_loss_is_differentiable(rng, base):
    """In the knots of time too, at which the true trajectory is read off."""
    path = sine_path(start(rng))
    check_grads(
        jax.jit(lambda theta: jnp.mean(loss_of(base)(theta, sine, TIMES, path))),
        (random_theta(NFE),),
        order=1,
        modes=["rev"],
    )


@midpoint_first
def test_the_loss_reads_trees_as_one_vector_and_hands_on_conditions(rng, base):
    theta, path = random_theta(NFE), sine_path(start(rng))
    gain = rng.uniform(size=(6, 1))

    def vf(t, x, gain):
        return jax.tree.map(lambda x: gain * x * (1.0 - t), x)

    loss = loss_of(base)
    expected = loss(theta, vf, TIMES, path, (gain,))
    tree = {"a": path[..., :1], "b": path[..., 1:]}
    assert_close(loss(theta, vf, TIMES, tree, (gain,)), expected, 1e-14)


def test_the_loss_takes_paths_in_single_precision(rng):
    theta, path = random_theta(NFE), sine_path(start(rng))
    got = loss_of("midpoint")(theta, sine, TIMES, path.astype(np.float32))
    assert got.dtype == jnp.float32
    assert_close(got, loss_of("midpoint")(theta, sine, TIMES, path), 1e-5)


@pytest.mark.exhaustive
@midpoint_first
def test_training_on_the_bound_lowers_the_error(rng, base):
    vf, flow, _ = PROBLEMS["linear"]
    path = flow(start(rng))
    gradient = jax.grad(lambda theta: jnp.mean(loss_of(base)(theta, vf, TIMES, path)))

    def step(theta, rate):
        signs = jax.tree.map(jnp.sign, gradient(theta))
        return jax.tree.map(lambda leaf, sign: leaf - rate * sign, theta, signs), None

    train = jax.jit(
        lambda theta: jax.lax.scan(step, theta, np.geomspace(0.01, 1e-4))[0]
    )

    def error(theta):
        x = ns.sample(TO_PARAMS[base](theta), vf, path[0])
        return np.mean(distance(x, path[-1]))

    theta = FAMILY[base].theta
    assert error(train(theta)) < error(theta) / 2


def test_the_loss_checks_what_it_is_given(rng):
    path, theta = sine_path(start(rng)), random_theta(NFE)
    loss = functools.partial(losses, distill.bespoke_loss("midpoint"))
    with pytest.raises(ValueError, match="lipschitz must not be negative, got -1"):
        distill.bespoke_loss("euler", lipschitz=-1.0)
    with pytest.raises(ValueError, match="positive multiple of 2, got 3"):
        loss(random_theta(3), sine, TIMES, path, ())
    with pytest.raises(ValueError, match="at least 4 points of the path, got 3"):
        loss(theta, sine, TIMES[::10], path[::10], ())
    for times in (TIMES[::-1], TIMES / 2, TIMES / 2 + 0.5):
        with pytest.raises(ValueError, match="must increase from 0 to 1"):
            loss(theta, sine, times, path, ())
