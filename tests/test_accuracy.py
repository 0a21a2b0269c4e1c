"""Laws of how exact ground truth is said to be: against closed forms and ripples."""

import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import Problem, accuracy, compare, ground_truth, metrics
from bns_jax.accuracy import Accuracy
from bns_jax.pairs import Pairs

from . import problems
from .problems import SCHEDULERS

FIELD, SCHEDULER = problems.plain(SCHEDULERS["cond_ot"]), SCHEDULERS["cond_ot"]


def rippling(t, x):
    """A time embedding of frequencies up to 1,000, which enters by a nonlinearity."""
    waves = jnp.sin(jnp.geomspace(1.0, 1000.0, x.shape[1]) * t)
    return jnp.tanh(x + waves.astype(x.dtype)[None]) - x


@pytest.fixture(scope="module")
def solved():
    x0 = problems.noise(9)
    return ground_truth.pairs(FIELD, x0, rtol=1e-4, atol=1e-4)


def test_it_is_the_psnr_against_the_closed_form(solved):
    exact = problems.flow(SCHEDULER, solved.x0, 1.0)
    found = accuracy.measure(FIELD, solved, rtol=1e-4, atol=1e-4)
    assert abs(found.psnr_db - np.mean(metrics.psnr(solved.x1, exact))) < 1.0
    assert found.pairs == 9
    assert 1 < found.growth < 1.8
    assert found.doubts([found.psnr_db - 10.1, -np.inf, np.nan]) == []


def test_it_looks_at_no_more_pairs_than_asked_for(solved, tmp_path):
    accuracy.measure(FIELD, solved, rtol=1e-4, atol=1e-4, count=2, directory=tmp_path)
    assert len(np.load(tmp_path / "001-x1.npy")) == 2


def test_solvers_that_come_close_to_the_truth_are_doubted():
    (doubt,) = Accuracy(70.0, 1.5, 64).doubts([40.0, 61.0, 65.5])
    assert "2 results of up to 65.5 dB are within 10 dB of the ground truth" in doubt
    assert "70.0 dB" in doubt


@pytest.mark.parametrize(("field", "doubts"), [(rippling, 1), (FIELD, 0)])
def test_a_field_that_ripples_in_t_is_doubted(field, doubts):
    pairs = ground_truth.pairs(field, problems.noise(4), rtol=1e-3, atol=1e-3)
    found = accuracy.measure(field, pairs, rtol=1e-3, atol=1e-3)
    said = [doubt for doubt in found.doubts([]) if "not smooth in t" in doubt]
    assert len(said) == doubts
    assert f"{found.psnr_db:.1f} dB, by 4 pairs" in str(found)


def test_it_stands_below_a_comparison_which_warns(solved):
    truth = Accuracy(70.0, 1.5, 9)
    with pytest.warns(UserWarning, match=r"within 10 dB of the ground truth itself"):
        table = compare(FIELD, solved, [2, 64], names=["euler", "rk4"], truth=truth)
    assert str(truth) in str(table)
    assert "ground truth" not in str(compare(FIELD, solved, 2, names=["euler"]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s: accuracy.measure(FIELD, Pairs.of(s.x0, s.x1)),
            "say no evaluations",
        ),
        (lambda s: accuracy.measure(FIELD, s, count=0), "count must be at least 1"),
        (lambda s: accuracy.measure(FIELD, s, chunk=0), "chunk must be at least 1"),
        (lambda s: accuracy.measure(FIELD, s, rtol=0.0), "rtol must be positive"),
        (
            lambda s: compare(FIELD, s, 2, names=["euler"], truth=70.0),
            "truth: expected what accuracy.measure returns, got 70.0",
        ),
        (
            lambda s: compare(
                FIELD,
                s,
                2,
                names=["euler"],
                metric=metrics.psnr,
                truth=Accuracy(70.0, 1.5, 9),
            ),
            "expected no metric",
        ),
    ],
)
def test_bad_input_is_named(solved, call, message):
    with pytest.raises(ValueError, match=message):
        call(solved)


def test_the_peak_is_that_of_the_problem(solved):
    wide = Problem(FIELD, data_range=20.0)
    usual, higher = (
        accuracy.measure(vf, solved, rtol=1e-4, atol=1e-4).psnr_db
        for vf in (FIELD, wide)
    )
    assert higher == pytest.approx(usual + 20.0)
