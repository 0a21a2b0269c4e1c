"""Laws of pairs in memory: they are joined, cut, and checked to belong together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import ground_truth, pairs
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
    path = np.stack([x, 2 * x, 3 * x])  # From x0 to x1.
    return Pairs(
        {"x": x},
        {"x": 3 * x},
        (label,),
        7 + np.arange(start, start + count),
        TIMES,
        {"x": path},
    )


def test_pairs_print_what_they_are_in_a_line():
    two = "Pairs(2 pairs, x0['x'] float64 (2, 2), 3 times on the path"
    assert str(of_size(2)) == repr(of_size(2)) == f"{two}, NFE 7.5 in the mean)"
    alone = Pairs.of(np.zeros((4, 3, 3), np.float32), np.zeros((4, 3, 3), np.float32))
    shown = "4 pairs, x0 float32 (4, 3, 3), 0 times on the path, NFE 0.0 in the mean"
    assert repr(alone) == f"Pairs({shown})"


def test_pairs_print_whatever_they_hold():
    printed = []
    jax.eval_shape(lambda traced: printed.append(repr(traced)), of_size(2))
    assert printed == ["Pairs(2 pairs, x0['x'] float64 (2, 2), 3 times on the path)"]
    wrong = Pairs(3, None, (), "none", object(), [])
    assert repr(wrong) == "Pairs(1 pairs, x0 int (), 1 times on the path)"


def test_concatenate_joins_samples():
    joined = pairs.concatenate([of_size(2), of_size(3, start=2)])
    assert joined.size == 5
    assert_equal(joined, of_size(5))


def test_weights_are_joined_and_are_1_where_none_are_given():
    weighted = of_size(2)._replace(weights=np.array([0.5, 3.0]))
    joined = pairs.concatenate([weighted, of_size(3, start=2)])
    np.testing.assert_array_equal(joined.weights, [0.5, 3.0, 1.0, 1.0, 1.0])
    assert_equal(joined._replace(weights=None), of_size(5))


def test_sets_without_a_common_sample_are_cut():
    train, validation = pairs.split(of_size(6), 3, 2)
    assert_equal(train, of_size(3))
    assert_equal(validation, of_size(2, start=3))
    with pytest.raises(ValueError, match="expected at least 7 pairs, got 6"):
        pairs.split(of_size(6), 5, 2)


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
        ({"x1": {"x": np.zeros((4, 3))}}, r"x1 of shape \(4, 2\), got \(4, 3\)"),
        (
            {"x1": {"x": np.zeros((4, 2), np.float32)}},
            "one dtype, .*4 and float32",
        ),
        ({"x0": {"x": np.zeros((4, 2), int)}}, "one dtype, .*int64 and float64"),
        ({"path": np.zeros((3, 4, 2))}, "x0 and path must have one tree"),
        ({"path": {"x": np.zeros((3, 5, 2))}}, r"path of shape \(3, 4, 2\), got"),
        ({"path": {"x": np.zeros((2, 4, 2))}}, r"path of shape \(3, 4, 2\), got"),
        ({"times": TIMES[:2]}, r"path of shape \(2, 4, 2\), got \(3, 4, 2\)"),
        ({"times": TIMES[::-1]}, "times must be sorted"),
        ({"times": 2 * TIMES}, r"times must be a vector in \[0, 1\]"),
        ({"times": np.full(3, np.nan)}, r"times must be a vector in \[0, 1\]"),
        ({"path": {"x": _large().path["x"] * np.nan}}, "must be finite, sample 0"),
        ({"nfe": np.zeros(4)}, r"nfe must be whole numbers .*got float64"),
        ({"nfe": np.array([1, 2, -3, 4])}, "nfe must be at least 0, got -3"),
        ({"x1": np.zeros((4, 2))}, "one tree"),
        ({"x1": _with_nan(_large().x1["x"])}, r"x1\['x'\] must be finite, sample 2"),
        ({"x0": _with_nan(_large().x0["x"])}, r"x0\['x'\] must be finite, sample 2"),
    ],
)
def test_pairs_that_do_not_belong_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        pairs.check(_large()._replace(**changes))


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        pairs.check(of_size(0))


STRANGE = {
    "a keyword": "text",
    "words": np.array(["a", "b", "c", "d"]),
    "objects": np.array([None] * 4),
    "typed keys": jax.random.split(jax.random.key(0), 4),
}


@pytest.mark.parametrize("label", list(STRANGE.values()), ids=list(STRANGE))
def test_conditioning_that_is_no_array_of_numbers_is_refused(label):
    x = np.zeros((4, 2))
    for call in (
        lambda: Pairs.of(x, x, (label,)),
        lambda: ground_truth.pairs(lambda t, x, label: x, x, label),
    ):
        with pytest.raises(TypeError, match=r"args\[0\] must be .*numbers, got"):
            call()


@pytest.mark.parametrize("label", [3, np.zeros(5), np.zeros((1, 4))])
def test_conditioning_without_the_batch_axis_is_refused_with_advice(label):
    x = np.zeros((4, 2))
    for call in (
        lambda: Pairs.of(x, x, (label,)),
        lambda: ground_truth.pairs(lambda t, x, label: x, x, label),
    ):
        with pytest.raises(ValueError, match="is closed over, or broadcast"):
            call()


def test_the_pairs_of_others_are_pairs():
    whole = of_size(4)
    got = Pairs.of(whole.x0, whole.x1, whole.args, TIMES, whole.path, whole.nfe)
    assert_equal(got, whole)
    uniform = Pairs.of(whole.x0, whole.x1, whole.args, path=whole.path)
    np.testing.assert_array_equal(uniform.times, TIMES)
    np.testing.assert_array_equal(uniform.nfe, 0)
    bare = Pairs.of(jnp.zeros((4, 2)), jnp.ones((4, 2)))
    assert bare.path.shape == (0, 4, 2)
    assert bare.times.shape == (0,)
    assert_equal(
        pairs.concatenate([bare, bare]), Pairs.of(np.zeros((8, 2)), np.ones((8, 2)))
    )
    assert pairs.first(bare, 3).path.shape == (0, 3, 2)
    for factors, named in (([5, 1, 1], "x0 at time 0"), ([1, 1, 2], "x1 at time 1")):
        path = {"x": whole.path["x"] * np.reshape(factors, (3, 1, 1))}
        with pytest.raises(ValueError, match=f"the path must be at {named}"):
            Pairs.of(whole.x0, whole.x1, whole.args, TIMES, path)
    with pytest.raises(ValueError, match="args must be a tuple, got ndarray"):
        Pairs.of(np.zeros((4, 2)), np.zeros((4, 2)), np.zeros(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": np.array([0.0, 0.4, 1.0])}, "the same times"),
        ({"x1": {"x": np.zeros((3, 2), np.float32)}}, "of one kind"),
        ({"args": ()}, "of one kind"),
        ({"x0": {"x": np.zeros((3, 2), np.float32)}}, "of one kind"),
    ],
)
def test_pairs_of_different_kinds_are_not_joined(changes, message):
    with pytest.raises(ValueError, match=message):
        pairs.concatenate([of_size(2), of_size(3)._replace(**changes)])
    with pytest.raises(ValueError, match="at least one set of pairs"):
        pairs.concatenate([])
