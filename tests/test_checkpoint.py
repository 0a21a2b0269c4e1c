"""Laws of checkpoints: exact, damage never goes unnoticed, devices may change."""

import re
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import checkpoint, parallel


class State(NamedTuple):
    step: Any
    theta: Any
    key: Any


def state(seed=0):
    rng = np.random.default_rng(seed)
    theta = {
        "wide": jnp.asarray(rng.normal(size=(16, 64))),
        "half": jnp.asarray(rng.normal(size=8), jnp.bfloat16),
        "nested": (jnp.arange(3), jnp.asarray(rng.normal(), jnp.float32)),
    }
    return State(jnp.asarray(seed), theta, jax.random.key(seed))


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = map(jax.random.key_data, (a, b))
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def two_steps(tmp_path):
    """A directory with state(1) at step 1 and state(2) at step 2."""
    for seed in (1, 2):
        checkpoint.save(tmp_path, seed, state(seed), {"seed": seed})
    return tmp_path


def test_the_round_trip_is_exact(tmp_path):
    metadata = {"history": [[0, 1.5, None], [10, -2.0, 3.25]], "name": "adam"}
    checkpoint.save(tmp_path / "new" / "run", 7, state(), metadata)
    found = checkpoint.restore(tmp_path / "new" / "run", state(9))
    assert (found.step, found.metadata) == (7, metadata)
    assert_same(found.state, state())
    draws = [jax.random.normal(s.key, (3,)) for s in (found.state, state())]
    np.testing.assert_array_equal(*draws)


def test_the_last_three_steps_are_kept_and_the_newest_restored(tmp_path):
    with checkpoint.Checkpointer(tmp_path) as saver:
        for step in (10, 20, 30, 40):
            saver.save(step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20", "30", "40"]
    assert checkpoint.restore(tmp_path, state()).step == 40


def test_a_step_may_be_saved_again(two_steps):
    checkpoint.save(two_steps, 2, state(5))
    assert_same(checkpoint.restore(two_steps, state()).state, state(5))


def test_the_newest_metadata_are_read_without_a_state(two_steps, tmp_path):
    assert checkpoint.newest_metadata(two_steps) == {"seed": 2}
    for path in (two_steps / "2").rglob("metadata"):
        if path.is_file():
            path.unlink()
    assert checkpoint.newest_metadata(two_steps) == {"seed": 1}
    assert checkpoint.newest_metadata(tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("refused", "got"),
    [
        (jnp.arange(3.0), "a bare ArrayImpl"),
        (np.arange(3.0), "a bare ndarray"),
        (jax.random.key(0), "a bare PRNGKeyArray"),
        (2.5, "a bare float"),
        ({}, "an empty dict"),
        (None, "an empty NoneType"),
    ],
    ids=["array", "numpy", "key", "number", "empty", "none"],
)
def test_a_state_that_is_no_tree_of_arrays_is_refused(tmp_path, refused, got):
    with pytest.raises(ValueError, match=f"tree with arrays in it, got {got}"):
        checkpoint.save(tmp_path / "run", 1, refused)
    assert not (tmp_path / "run").exists()


def test_where_nothing_was_saved_nothing_is_found(tmp_path):
    assert checkpoint.restore(tmp_path / "missing", state()) is None
    assert checkpoint.restore(tmp_path, state()) is None


def newest_files(directory):
    return sorted(path for path in (directory / "2").rglob("*") if path.is_file())


def largest(directory):
    return max(newest_files(directory), key=lambda path: path.stat().st_size)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x04
    path.write_bytes(data)


def falls_back(directory, caplog):
    found = checkpoint.restore(directory, state())
    assert found.step == 1
    assert_same(found.state, state(1))
    assert "step 2" in caplog.text
    assert "passed over" in caplog.text
    return True


def test_a_flipped_byte_falls_back_to_the_step_before(two_steps, caplog):
    path = largest(two_steps)
    flip(path, path.stat().st_size // 2)
    assert falls_back(two_steps, caplog)


def test_a_truncated_file_falls_back_to_the_step_before(two_steps, caplog):
    path = largest(two_steps)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert falls_back(two_steps, caplog)


def test_an_empty_step_falls_back_to_the_step_before(two_steps, caplog):
    for path in newest_files(two_steps):
        path.unlink()
    for path in sorted((two_steps / "2").rglob("*"), reverse=True):
        path.rmdir()
    assert falls_back(two_steps, caplog)
    # The run goes on from there, and its next save replaces the empty step.
    checkpoint.save(two_steps, 2, state(2))
    assert_same(checkpoint.restore(two_steps, state()).state, state(2))


def test_a_missing_file_falls_back_to_the_step_before(two_steps, caplog):
    largest(two_steps).unlink()
    assert falls_back(two_steps, caplog)


def test_steps_that_are_damaged_make_room_and_good_ones_stay(two_steps):
    path = largest(two_steps)
    flip(path, path.stat().st_size // 2)
    checkpoint.save(two_steps, 5, state(5))
    assert sorted(path.name for path in two_steps.iterdir()) == ["1", "5"]


FULL_DISK = """
import resource, sys
import jax.numpy as jnp
from bns_jax import checkpoint

resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
try:
    checkpoint.save(sys.argv[1], 3, {"x": jnp.arange(100_000.0)})
except OSError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_and_the_steps_before_stay(two_steps):
    """No file may grow beyond 64 KiB, which is where this disk ends.

    In a process of its own: the limit holds for all threads, and those of the writer
    that come late report to a loop that has closed.
    """
    command = [sys.executable, "-c", FULL_DISK, str(two_steps)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.match(f"a checkpoint in {two_steps} .*written: ", said)
    assert checkpoint.restore(two_steps, state()).step == 2
    assert (two_steps / "3.orbax-checkpoint-tmp").exists()
    checkpoint.save(two_steps, 3, state(3))
    assert sorted(path.name for path in two_steps.iterdir()) == ["1", "2", "3"]
    assert_same(checkpoint.restore(two_steps, state()).state, state(3))


def test_saving_does_not_wait_and_leaving_does(tmp_path):
    with checkpoint.Checkpointer(tmp_path) as saver:
        for step in (1, 2):
            given = state(step)
            saver.save(step, given)
            # The caller may reuse its memory at once.
            given.theta["wide"].delete()
    assert_same(checkpoint.restore(tmp_path, state()).state, state(2))


def test_a_bucket_is_no_folder_below_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given, there in {
        "gs://bucket/run": "gs://bucket/run",
        "run": str(tmp_path / "run"),
    }.items():
        assert str(checkpoint.Checkpointer(given).directory) == there


def test_damage_anywhere_never_gives_wrong_numbers(two_steps):
    for path in newest_files(two_steps):
        data = path.read_bytes()
        if data:
            flip(path, len(data) // 2)
            found = checkpoint.restore(two_steps, state())
            assert_same(found.state, state(found.step))
            path.write_bytes(data)


def test_when_no_step_is_whole_the_directory_is_named(two_steps):
    for path in two_steps.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{two_steps} \(found \[1, 2\]\)"):
        checkpoint.restore(two_steps, state())


@pytest.mark.parametrize(
    "change",
    [
        lambda theta: theta | {"wide": theta["wide"].astype(jnp.float32)},
        lambda theta: theta | {"half": theta["half"].astype(jnp.float32)},
        lambda theta: theta | {"wide": theta["wide"][:8]},
        lambda theta: theta | {"wide": theta["wide"].T},
        lambda theta: theta | {"more": jnp.zeros(2)},
        lambda theta: {"wide": theta["wide"]},
    ],
    ids=["narrower", "wider", "fewer", "transposed", "more-leaves", "less-leaves"],
)
def test_another_dtype_shape_or_tree_is_refused_never_cast(two_steps, change):
    like = state()._replace(theta=change(state().theta))
    with pytest.raises(
        ValueError, match="cannot be restored into the expected state; "
    ):
        checkpoint.restore(two_steps, like)
    assert_same(checkpoint.restore(two_steps, state()).state, state(2))


@pytest.mark.parametrize(("saved_on", "restored_on"), [(1, 8), (8, 1), (4, 8), (8, 2)])
def test_a_state_moves_to_another_number_of_devices(tmp_path, saved_on, restored_on):
    def laid(count):
        mesh = parallel.data_mesh(jax.devices()[:count])
        replicated = parallel.replicate({"key": jax.random.key(3)}, mesh)
        return {"x": parallel.shard(jnp.arange(16.0), mesh)} | replicated

    checkpoint.save(tmp_path, 1, laid(saved_on))
    found = checkpoint.restore(tmp_path, laid(restored_on)).state
    assert_same(found, laid(restored_on))
    assert found["x"].sharding == laid(restored_on)["x"].sharding
    assert len(found["x"].addressable_shards) == restored_on
