"""Small inputs that went silently wrong once, or ended in somebody else's error."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import bns_jax
from bns_jax import (
    conventions,
    distill,
    families,
    grids,
    ground_truth,
    interchange,
    ns,
    pairs,
    schedulers,
    solvers,
    velocity,
)
from bns_jax.interchange import Purpose

from . import problems
from .laws import first_of

VE = schedulers.ve(80.0, rho=7.0)
X0 = problems.noise(12)
EULER = solvers.euler(2)


def decay(t, x):
    return -x * (1 + t)


PAIRS = pairs.Pairs.of(X0, X0 * np.exp(-1.5))


@pytest.mark.parametrize("make", [velocity.from_data, velocity.from_denoiser])
@pytest.mark.parametrize("t", [0.5, 0.9, 0.95, 0.99])
def test_the_velocity_under_steep_noise_is_that_of_the_path(make, t):
    """Data at 0: x = sigma_t noise, and so u = (sigma_t' / sigma_t) x."""
    field = make(lambda t, x: 0 * x, VE)
    got = field(t, jnp.ones((1, 1)))
    np.testing.assert_allclose(got, -7 / (1 - t), rtol=1e-9)


def test_equal_steps_of_log_snr_end_at_noise_that_can_be_seen():
    levels = VE.sigma(grids.times(grids.log_snr(VE), 8))[1:-1]
    assert np.all(levels > 1e-4)
    linear = schedulers.ve(80.0)
    levels = linear.sigma(grids.times(grids.log_snr(linear), 8))[1:-1]
    assert np.all(levels > 0.08)


def test_every_leaf_counts_within_its_own_size():
    rng = np.random.default_rng(0)
    x0 = {"large": 1e4 * rng.normal(size=(8, 2)), "small": rng.normal(size=(8, 2))}

    def make(rate):
        return lambda t, x: {"large": -x["large"], "small": -rate * x["small"]}

    (reason,) = problems.what_differs(make(1.0), make(3.0), x0)
    assert reason.startswith("field_probe: ")


@pytest.mark.parametrize(("start", "end"), [(0.8, 0.99), (0.04, 0.2)])
def test_fields_that_differ_early_or_late_are_others(start, end):
    def make(bound):
        return lambda t, x: x * jnp.where(t < bound, 1.0, 5.0)

    (reason,) = problems.what_differs(make(start), make(end), X0)
    assert reason.startswith("field_probe: ")


@pytest.mark.parametrize(
    ("also", "message"),
    [
        ({"mine": {2: solvers.midpoint(8)}}, "make 2 evaluations, got a solver of 8"),
        ({"mine": 3}, "solvers by their NFE, got int"),
    ],
)
def test_own_solvers_are_what_they_are_called(also, message):
    with pytest.raises(ValueError, match=message):
        bns_jax.compare(decay, PAIRS, 2, names=["euler"], also=also)


def test_own_solvers_of_other_nfe_are_left_out():
    own = {2: solvers.midpoint(2), 4: solvers.midpoint(4)}
    table = bns_jax.compare(decay, PAIRS, 2, names=["euler"], also={"mine": own})
    assert [(row.solver, row.nfe) for row in table.results] == [
        ("euler", 2),
        ("mine", 2),
    ]


COMPLEX = {
    "a solver": lambda: ns.validate(EULER._replace(a=EULER.a * 1j)),
    "a sampled solver": lambda: bns_jax.sample(
        EULER._replace(a=EULER.a * 1j), decay, X0
    ),
    "times": lambda: ground_truth.pairs(decay, X0, save_at=np.array([0, 0.5j, 1])),
    "weights": lambda: pairs.Pairs.of(X0, X0, weights=np.ones(12) * 1j),
    "a scale": lambda: velocity.guided(decay, lambda t, x: x, None)(
        0.5, jnp.asarray(X0), np.ones(12) * 1j
    ),
}


@pytest.mark.parametrize("call", COMPLEX.values(), ids=list(COMPLEX))
def test_complex_numbers_are_refused(call):
    with pytest.raises(ValueError, match=r"real number|sorted times|one number per"):
        call()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "dtype", first_of([jnp.bfloat16, jnp.float16], jnp.bfloat16), ids=["bf16", "f16"]
)
def test_pairs_of_16_bits_are_fitted(dtype):
    def half(data):
        return pairs.Pairs.of(data.x0.astype(dtype), data.x1.astype(dtype))

    other = pairs.Pairs.of(X0 + 1.0, (X0 + 1.0) * np.exp(-1.5))
    found = distill.fit(
        families.bns(EULER),
        decay_like,
        half(PAIRS),
        half(other),
        optimizer=distill.gauss_newton().replace(iterations=2),
    )
    assert found.val_metric > found.history[0].val_metric


def decay_like(t, x):
    return (-x.astype(jnp.float32) * (1 + t)).astype(x.dtype)


@pytest.mark.parametrize("times", [[], [0.0], [1.0], [0.5, 1.0]])
def test_a_check_is_at_times_within(times):
    with pytest.raises(ValueError, match="times must be some between 0 and 1"):
        conventions.check(decay, schedulers.cond_ot(), X0, times=times)


def test_a_check_of_constant_data_prints():
    print(conventions.check(decay, schedulers.cond_ot(), X0[:1] * 0 + 0.3))


def batch_norm(t, x):
    return (x - jnp.mean(x, 0, keepdims=True)) / jnp.std(x, 0, keepdims=True)


MIXES = {
    "pairs": lambda: ground_truth.pairs(batch_norm, X0),
    "compare": lambda: bns_jax.compare(batch_norm, PAIRS, 2, names=["euler"]),
    "greedy": lambda: distill.greedy(batch_norm, PAIRS, 2),
    "evaluate": lambda: distill.evaluate(EULER, batch_norm, PAIRS),
}


@pytest.mark.parametrize("call", MIXES.values(), ids=list(MIXES))
def test_what_is_finite_in_company_alone_mixes_its_samples(call):
    with pytest.raises(ValueError, match="mixes its samples"):
        call()


def test_scales_of_other_samples_are_refused():
    field = velocity.guided(decay, lambda t, x: x, jnp.arange(6.0) / 6)
    for call in (
        lambda: distill.evaluate(EULER, field, PAIRS),
        lambda: distill.greedy(field, PAIRS, 2),
    ):
        with pytest.raises(ValueError, match="guidance scale"):
            call()


@pytest.mark.exhaustive
def test_a_list_of_scales_is_an_array_of_them():
    """x' = 1.5 decay - 0.5 x in both, and so x_1 = x_0 exp(-1.5 * 1.5 - 0.5)."""
    listed = velocity.guided(decay, lambda t, x: x, [0.5] * 12)
    number = velocity.guided(decay, lambda t, x: x, 0.5)
    np.testing.assert_allclose(listed(0.3, X0), number(0.3, X0), rtol=1e-12)
    got = ground_truth.pairs(listed, X0, rtol=1e-9, atol=1e-9).x1
    np.testing.assert_allclose(got, X0 * np.exp(-2.75), rtol=1e-6)


KINDS = {
    "scheduler": lambda: bns_jax.compare(decay, PAIRS, 2, scheduler=schedulers.vp),
    "scheduler of a problem": lambda: bns_jax.Problem(decay, "vp"),
    "family": lambda: distill.fit(EULER, decay, PAIRS, PAIRS),
    "optimizer": lambda: distill.fit(
        families.bns(EULER), decay, PAIRS, PAIRS, optimizer=distill.gauss_newton
    ),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_another_kind_of_object_is_named_with_what_was_expected(name):
    with pytest.raises(
        ValueError, match=f"expected an? {name.partition(' ')[0]}, such as"
    ):
        KINDS[name]()


@pytest.mark.parametrize("call", [distill.evaluate, bns_jax.compare])
def test_what_are_no_pairs_are_named(call):
    inputs = (EULER, decay) if call is distill.evaluate else (decay,)
    rest = () if call is distill.evaluate else (2,)
    with pytest.raises(TypeError, match=r"expected Pairs, .* got tuple"):
        call(*inputs, (X0, X0), *rest)


SHIFT = jnp.asarray([3.0, -1.0, 0.5])


def to_data(t, x):
    """Exact flow of N(0, 1) to N(SHIFT, 0.5^2), entry by entry."""
    deviation = (1 - t) + 0.5 * t
    return SHIFT[None] - 0.5 * (x - t * SHIFT[None]) / deviation


def data_pairs():
    x0 = problems.noise(64)
    return x0, np.asarray(SHIFT) + 0.5 * x0


WRONG = {
    "swapped": lambda x0, x1: (to_data, x1, x0),
    "shuffled": lambda x0, x1: (to_data, x0, np.roll(x1, 1, axis=0)),
    "reversed time": lambda x0, x1: (lambda t, x: -to_data(1 - t, x), x0, x1),
}


@pytest.mark.parametrize("name", first_of(WRONG, "shuffled"))
def test_pairs_that_the_field_does_not_make_are_refused(name):
    x0, x1 = data_pairs()
    given = distill.greedy(to_data, pairs.Pairs.of(x0, x1), 2)
    assert np.all(np.isfinite(given.b))
    field, x0, x1 = WRONG[name](x0, x1)
    with pytest.raises(ValueError, match="expected a field that leads from x0 to x1"):
        distill.greedy(field, pairs.Pairs.of(x0, x1), 2)


def test_errors_of_the_field_say_how_it_is_called():
    with pytest.raises(TypeError) as caught:
        ground_truth.pairs(lambda x: -x, X0)
    assert "scalar time, a whole batch x of (8, 3), and 0" in "".join(
        caught.value.__notes__
    )


def test_a_table_says_which_solvers_are_left_out():
    said = "without a scheduler, solvers that need one are left out"
    assert said in str(bns_jax.compare(decay, PAIRS, 2, names=["common"]))
    known = bns_jax.Problem(decay, schedulers.cond_ot())
    assert said not in str(bns_jax.compare(known, PAIRS, 2, names=["common"]))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a/b": np.ones(1), "a": {"b": np.zeros(1)}}, r"by itself, got \['a/b'\]"),
        ({"a": {1: np.ones(1)}}, "expected string keys"),
    ],
)
def test_weights_have_names_of_their_own(tmp_path, params, message):
    from bns_jax.models import weights

    with pytest.raises(ValueError, match=message):
        weights.save(tmp_path / "w.safetensors", params, {})
    with pytest.raises(ValueError, match="metadata must be JSON"):
        weights.save(tmp_path / "w.safetensors", {"a": np.ones(1)}, {"a": np.nan})


def test_numbers_beyond_their_range_are_named():
    with pytest.raises(ValueError, match=r"memory must lie in \[0, 1\), got 1.0"):
        distill.gauss_newton(memory=1.0)
    x0, x1 = data_pairs()
    curve = pairs.Pairs.of(x0, x1, path=np.stack([x0, x0, x1]))
    with pytest.raises(ValueError, match=r"power must not be negative, got -0\.5"):
        distill.path_grid(curve, -0.5)


def test_a_path_of_few_points_is_named_alone():
    x0, x1 = data_pairs()
    with pytest.raises(ValueError, match=r"at least 3 points of the path, got 2$"):
        distill.path_grid(pairs.Pairs.of(x0, x1, path=np.stack([x0, x1])), 0.5)


@pytest.mark.parametrize("scale", [np.inf, np.nan, "7.5", [0.1, 0.2]])
def test_a_scale_that_is_no_finite_number_is_no_problem(scale):
    with pytest.raises(ValueError, match="guidance must be a finite number, got"):
        bns_jax.Problem(decay, guidance=scale)
    with pytest.raises(ValueError, match="guidance must be a finite number, got"):
        bns_jax.Problem(velocity.guided(decay, decay, 0.5), guidance=scale)


def test_a_problem_does_not_contradict_its_field():
    """As `dataclasses.replace` would, which hands on what the old field had said."""
    guided = [velocity.guided(decay, decay, w) for w in (1.5, 3.0)]
    old = bns_jax.Problem(guided[0])
    with pytest.raises(ValueError, match=r"guidance must be .* 3, got 1\.5"):
        dataclasses.replace(old, field=guided[1])
    assert dataclasses.replace(old, field=guided[1], guidance=3.0).guidance == 3.0
    paths = schedulers.cond_ot(), schedulers.cosine()
    of_path = velocity.from_v(decay, paths[0])
    with pytest.raises(ValueError, match=r"scheduler must be .*CondOT.*, got Cosine"):
        bns_jax.Problem(of_path, paths[1])
    assert bns_jax.Problem(of_path, schedulers.cond_ot()).scheduler == paths[0]


@pytest.mark.parametrize(
    "dtype", first_of([jnp.bfloat16, np.float16, np.float64], jnp.bfloat16)
)
def test_trajectories_that_are_solved_for_have_the_dtype_of_the_pairs(dtype):
    bare = pairs.Pairs.of(*(x.astype(dtype) for x in (PAIRS.x0, PAIRS.x1)))
    found = distill.with_path(decay, bare, None)
    assert found.path.dtype == dtype
    t = found.times[:, None, None]
    expected = X0 * np.exp(-t - t**2 / 2)
    np.testing.assert_allclose(found.path.astype(float), expected, atol=0.02)


def test_a_problem_without_a_name_leaves_the_model_open(tmp_path):
    problem = bns_jax.Problem(decay, schedulers.cond_ot())
    said = Purpose.of(problem, identity={"model": "mine"})
    path = tmp_path / "solver.json"
    interchange.save(path, EULER, purpose=said)
    loaded = interchange.load(path, expect=Purpose.of(problem, nfe=2))
    np.testing.assert_array_equal(loaded.times, EULER.times)


def test_a_schedule_that_is_hardly_noise_is_warned_of():
    """Its factors are given where their products are asked for."""
    with pytest.warns(UserWarning, match=r"0\.99 data, .*np\.cumprod"):
        schedulers.from_alphas_cumprod(1 - np.linspace(1e-4, 0.02, 1000))
