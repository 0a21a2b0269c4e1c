"""Laws of pairs in memory: they are joined, cut, and checked to belong together."""

import functools

import jax
import numpy as np
import pytest

from bns_jax import pairs
from bns_jax.pairs import Pairs

TIMES = np.array([0.0, 0.5, 1.0])


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def of_size(count, start=0):
    x = np.arange(start, start + count, dtype=float)[:, None] * np.ones((1, 2))
    label = {"class": np.arange(start, start + count)}
    path = np.stack([x, 2 * x, 3 * x])
    return Pairs({"x": x}, {"x": 3 * x}, (label,), 7 + x[:, 0], TIMES, {"x": path})


def test_concatenate_joins_samples():
    joined = pairs.concatenate([of_size(2), of_size(3, start=2)])
    assert joined.size == 5
    assert_equal(joined, of_size(5))


def test_first_keeps_the_first_samples():
    kept = pairs.first(of_size(5), 2)
    assert kept.size == 2
    assert_equal(kept, of_size(2))


def test_sound_pairs_pass():
    pairs.check(of_size(3))


@functools.cache
def _large():
    return of_size(4)


def _with_nan(x):
    x = x.copy()
    x[2, 1] = np.nan
    return {"x": x}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x1": {"x": np.zeros((3, 2))}}, r"equal length.*x1\['x'\] \(3,\)"),
        ({"args": (np.zeros(5),)}, r"equal length.*args\[0\] \(5,\)"),
        ({"nfe": np.zeros(3)}, r"equal length.*nfe \(3,\)"),
        ({"x1": {"x": np.zeros((4, 3))}}, r"equal shapes, got \(4, 2\) and \(4, 3\)"),
        ({"x1": np.zeros((4, 2))}, "one tree"),
        ({"x1": _with_nan(_large().x1["x"])}, "x1 must be finite, sample 2"),
        ({"x0": _with_nan(_large().x0["x"])}, "x0 must be finite, sample 2"),
    ],
)
def test_pairs_that_do_not_belong_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        pairs.check(_large()._replace(**changes))


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        pairs.check(of_size(0))
