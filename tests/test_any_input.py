"""Any array at any public function: a clear error of its own, or a right result."""

import functools
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bns_jax
from bns_jax import (
    conventions,
    distill,
    families,
    ground_truth,
    metrics,
    ns,
    pairs,
    schedulers,
    solvers,
    velocity,
)
from bns_jax.pairs import Pairs
from tests.laws import first_of

EULER = solvers.euler(2)
COND_OT = schedulers.cond_ot()


def field(t, x):
    return -x


def vf(t, x):
    return jax.tree.map(lambda leaf: -leaf, x)


DTYPES = [
    np.float32,
    np.float64,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    np.int32,
    np.bool_,
    np.complex64,
    np.object_,
    np.dtype("<U2"),
    np.dtype(">f4"),
]
SHAPES = [(3, 2), (1, 2), (2, 2, 1), (3,), (0, 2), (2, 0), ()]
LAYOUTS = {
    "contiguous": lambda x: x,
    "Fortran": np.asfortranarray,
    "reversed": lambda x: x[::-1] if x.ndim else x,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x,
    "read-only": lambda x: _frozen(x),
    "JAX's": lambda x: (
        jnp.asarray(x) if x.dtype.kind not in "OU" and x.dtype.isnative else x
    ),
}
STRANGE = [0.0, np.nan, np.inf, -np.inf, 1e30]


def _frozen(x):
    x = x.copy()
    x.flags.writeable = False
    return x


@st.composite
def arrays(draw, shapes=SHAPES):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.sampled_from(shapes))
    x = np.random.default_rng(draw(st.integers(0, 9))).normal(size=shape)
    if x.size and draw(st.booleans()):
        x[(0,) * x.ndim] = draw(st.sampled_from(STRANGE))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        x = np.asarray(x).astype(dtype)
    return LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](x)


def _other(x):
    """Something else of the same shape and, where it holds a 3, dtype."""
    return np.full(x.shape, 3, np.float64 if x.dtype == np.bool_ else x.dtype)


def _pairs(x0, x1):
    return Pairs.of(x0, x1)


FUNCTIONS = {
    "sample": lambda x: bns_jax.sample(EULER, field, x),
    "sample_path": lambda x: bns_jax.sample_path(EULER, field, x),
    "sample_velocities": lambda x: ns.sample_velocities(EULER, field, x)[0],
    "from_epsilon": lambda x: velocity.from_epsilon(field, COND_OT)(0.5, x),
    "from_data": lambda x: velocity.from_data(field, COND_OT)(0.5, x),
    "from_v": lambda x: velocity.from_v(field, COND_OT)(0.5, x),
    "from_denoiser": lambda x: velocity.from_denoiser(field)(0.5, x),
    "guided": lambda x: velocity.guided(field, field, 0.5)(0.5, x),
    "guided (scale)": lambda x: velocity.guided(field, field, x)(0.5, np.ones((3, 2))),
    "psnr": lambda x: metrics.psnr(x, _other(x)),
    "snr": lambda x: metrics.snr(x, _other(x)),
    "mean_squared_error": lambda x: metrics.mean_squared_error(x, _other(x)),
    "psnr_loss": lambda x: distill.psnr_loss(x, _other(x)),
    "mse_loss": lambda x: distill.mse_loss(x, _other(x)),
    "snr_loss": lambda x: distill.snr_loss(x, _other(x)),
    "huber_loss": lambda x: distill.huber_loss()(x, _other(x)),
    "bootstrap_interval": lambda x: metrics.bootstrap_interval(x, resamples=20),
    "data_range": metrics.data_range,
    "Pairs.of": lambda x: _pairs(x, x).x1,
    "pairs.first": lambda x: pairs.first(_pairs(x, x), 1).x1,
    "pairs.concatenate": lambda x: pairs.concatenate([_pairs(x, x)] * 2).x1,
    "evaluate": lambda x: distill.evaluate(EULER, field, _pairs(x, x)),
    "alpha": COND_OT.alpha,
    "sigma": schedulers.vp().sigma,
    "log_snr": schedulers.cosine().log_snr,
    "validate (times)": lambda x: ns.validate(EULER._replace(times=x)),
    "validate (a)": lambda x: ns.validate(EULER._replace(a=x)),
    "validate (b)": lambda x: ns.validate(EULER._replace(b=x)),
}
SLOW = {
    "ground_truth.pairs": lambda x: ground_truth.pairs(field, x, rtol=0.1, atol=0.1).x1,
    "ground_truth.pairs (args)": lambda x: (
        ground_truth.pairs(
            lambda t, x, c: -x, np.ones((3, 2)), x, rtol=0.1, atol=0.1
        ).x1
    ),
    "conventions.check": lambda x: conventions.check(field, COND_OT, x).error,
    # Coefficients are badly conditioned: what counts is where they lead.
    "greedy": lambda x: bns_jax.sample(
        distill.greedy(field, _pairs(x, x), 2), field, x
    ),
    "fit": lambda x: (
        distill.fit(
            families.bns(EULER),
            field,
            _pairs(*[np.concatenate([np.atleast_1d(x)] * 8)] * 2),
            _pairs(x, x),
            optimizer=distill.adam(1e-3).replace(batch=1, iterations=1),
        ).params
    ),
    "compare": lambda x: (
        bns_jax.compare(field, _pairs(x, x), 2, names=["euler"]).results
    ),
}
relaxed = functools.partial(
    settings,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _check(call, x):
    """It raises an error of its own, or does the same for a plain copy."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            got = call(x)
        except (ValueError, TypeError) as error:
            assert type(error) in (ValueError, TypeError), repr(error)
            assert "got" in str(error) or "must" in str(error) or "is not" in str(error)
            return
        plain = np.array(x, np.float64, order="C")
        expected = call(plain)
    tolerance = 2e-2 if np.dtype(x.dtype).itemsize < 4 else 1e-4
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if isinstance(a, str):
            assert a == b
            continue
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        size = np.max(np.abs(b), initial=1.0, where=np.isfinite(b))
        both = np.isfinite(a) & np.isfinite(b)
        np.testing.assert_allclose(
            a[both], b[both], rtol=tolerance, atol=tolerance * size
        )


def _check_drawn(call, inputs, examples):
    @relaxed(max_examples=examples)
    @given(x=inputs)
    def check(x):
        _check(call, x)

    check()


@pytest.mark.parametrize("examples", first_of([4, 20], 4))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_array_is_refused_by_name_or_taken_as_its_copy(name, examples):
    shapes = SHAPES if examples > 4 else [(3, 2), (3,), ()]
    _check_drawn(FUNCTIONS[name], arrays(shapes), examples)


@pytest.mark.parametrize("examples", first_of([2, 4], 2))
@pytest.mark.parametrize("name", first_of(SLOW, "conventions.check", "fit"))
def test_long_work_refuses_first_or_takes_any_layout(name, examples):
    _check_drawn(SLOW[name], arrays([(3, 2), (3,), (0, 2), ()]), examples)


ONES = np.ones((3, 2))
SWAPPED = np.ones((3, 2), ">f8")
OF_PARAMS = {
    "sample": lambda p: bns_jax.sample(p, field, ONES),
    "sample_path": lambda p: bns_jax.sample_path(p, field, ONES),
    "sample_velocities": lambda p: ns.sample_velocities(p, field, ONES),
    "validate": ns.validate,
    "bns": families.bns,
    "evaluate": lambda p: distill.evaluate(p, field, _pairs(ONES, ONES)),
    "compare": lambda p: bns_jax.compare(
        field, _pairs(ONES, ONES), 2, names=["euler"], also={"mine": p}
    ),
}
OTHERS = {
    "args of sample": lambda: bns_jax.sample(
        EULER, lambda t, x, c: x * c, ONES, SWAPPED
    ),
    "args of pairs": lambda: ground_truth.pairs(
        lambda t, x, c: x * c, ONES, {"c": SWAPPED}
    ),
    "scale": lambda: velocity.guided(field, field, SWAPPED)(0.5, ONES),
    "target": lambda: metrics.psnr(ONES, SWAPPED),
    "target of a loss": lambda: distill.snr_loss(ONES, SWAPPED),
}


@pytest.mark.parametrize("name", [*OF_PARAMS, *OTHERS])
def test_the_other_byte_order_is_named_with_its_remedy(name):
    with pytest.raises(
        TypeError, match=r"byte order of this machine, got >f8; .*astype"
    ):
        if name in OTHERS:
            OTHERS[name]()
        else:
            OF_PARAMS[name](EULER._replace(a=EULER.a.astype(">f8")))


NO_ARRAYS = {
    "empty": lambda: bns_jax.sample(EULER, field, {}),
    "empty, pairs": lambda: ground_truth.pairs(field, {}),
    "text": lambda: bns_jax.sample(EULER, field, ONES, "cat"),
    "text, pairs": lambda: ground_truth.pairs(field, ONES, "cat"),
    "object": lambda: bns_jax.sample(EULER, field, ONES, [object()]),
}


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_what_has_no_numbers_is_named(name):
    with pytest.raises((TypeError, ValueError), match=r"(array|axis).*, got"):
        NO_ARRAYS[name]()


def test_what_is_read_by_numpy_may_be_of_the_other_byte_order():
    swapped = np.array([0.9, 0.5], ">f8")
    assert schedulers.from_alphas_cumprod(swapped).log_alphas[0] < 0
    np.testing.assert_array_equal(
        solvers.euler(2, grid=np.array([0, 0.25, 1], ">f4")).times, [0, 0.25]
    )


def test_what_is_no_number_is_named():
    with pytest.raises(TypeError, match="times must be real numbers, got <U1"):
        COND_OT.alpha("x")
    with pytest.raises(TypeError, match=r"x0 must be an array of numbers, got"):
        ground_truth.pairs(field, np.full((3, 2), "x"))


COUNTS = {
    "euler": solvers.euler,
    "ddim": lambda n: solvers.ddim(n, COND_OT),
    "rk4": solvers.rk4,
    "build": lambda n: solvers.build("euler", n, COND_OT),
    "num_params": ns.num_params,
    "extend": lambda n: ns.extend(EULER, n),
    "from_solver": lambda n: bns_jax.from_solver(lambda vf, x: x + vf(0.0, x), n),
    "compare": lambda n: bns_jax.compare(
        field, _pairs(np.ones((2, 2)), np.ones((2, 2))), n, names=["euler"]
    ),
}


@pytest.mark.parametrize("name", COUNTS)
@relaxed(max_examples=25)
@given(
    count=st.one_of(
        st.integers(-3, 6),
        st.integers(-2, 6).map(np.int64),
        st.floats(allow_nan=True),
        st.booleans(),
        st.none(),
        st.just("4"),
        st.just(10**6),
        st.just(np.array([1, 2])),
    )
)
def test_any_count_is_refused_by_name_or_used(name, count):
    try:
        COUNTS[name](count)
    except (ValueError, TypeError) as error:
        assert type(error) in (ValueError, TypeError), repr(error)
