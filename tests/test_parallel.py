"""Laws of laying batches over devices."""

import jax
import numpy as np
import pytest

from bns_jax import parallel


@pytest.fixture
def batch(rng):
    return {"x": rng.normal(size=(16, 3)), "label": np.arange(16)}


def same(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_mesh_has_one_axis_over_the_devices():
    mesh = parallel.data_mesh()
    assert mesh.axis_names == ("batch",)
    assert mesh.size == jax.device_count() == 8
    assert parallel.data_mesh(jax.devices()[:2]).size == 2


def test_shard_gives_each_device_its_rows(batch):
    laid = parallel.shard(batch, parallel.data_mesh())
    same(laid, batch)
    for name, leaf in laid.items():
        shards = leaf.addressable_shards
        assert len({shard.device for shard in shards}) == 8
        for shard in shards:
            assert shard.data.shape[0] == 2
            np.testing.assert_array_equal(shard.data, batch[name][shard.index])


def test_replicate_gives_each_device_all(batch):
    laid = parallel.replicate(batch, parallel.data_mesh())
    same(laid, batch)
    for leaf in jax.tree.leaves(laid):
        assert leaf.is_fully_replicated
        assert len(leaf.addressable_shards) == 8


@pytest.mark.parametrize("lay", [parallel.shard, parallel.replicate])
def test_without_a_mesh_nothing_is_moved(lay, batch):
    assert lay(batch, None) is batch


@pytest.mark.parametrize(
    ("size", "nearest"), [(63, "56 and 64"), (41, "40 and 48"), (3, "8")]
)
def test_an_indivisible_batch_is_named_with_the_nearest_sizes(size, nearest):
    with pytest.raises(
        ValueError, match=rf"got {size}; the nearest sizes? \w+ {nearest}$"
    ):
        parallel.shard(np.zeros((size, 2)), parallel.data_mesh())


def test_a_leaf_without_a_batch_axis_is_refused():
    with pytest.raises(ValueError, match="leading batch axis"):
        parallel.shard({"x": np.zeros(8), "t": np.float64(0.5)}, parallel.data_mesh())
