"""Laws of checkpoints: exact, damage never goes unnoticed, devices may change."""

import errno
import json
import os
import re
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from bns_jax import (
    checkpoint,
    distill,
    families,
    parallel,
    solvers,
)
from bns_jax.checkpoint.steps import seal

from . import problems


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


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def steps(*numbers):
    return [f"bns_jax_{number}" for number in numbers]


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
    assert names(tmp_path) == steps(20, 30, 40)
    assert checkpoint.restore(tmp_path, state()).step == 40


def test_a_step_may_be_saved_again(two_steps):
    checkpoint.save(two_steps, 2, state(5))
    assert_same(checkpoint.restore(two_steps, state()).state, state(5))


def test_the_newest_metadata_are_read_without_a_state(two_steps, tmp_path):
    assert checkpoint.newest_metadata(two_steps) == {"seed": 2}
    for path in (two_steps / "bns_jax_2").rglob("metadata"):
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
    newest = directory / "bns_jax_2"
    return sorted(path for path in newest.rglob("*") if path.is_file())


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
    for path in sorted((two_steps / "bns_jax_2").rglob("*"), reverse=True):
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
    assert names(two_steps) == steps(1, 5)


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


@pytest.mark.exhaustive
def test_a_full_disk_is_an_error_and_the_steps_before_stay(two_steps):
    """No file may grow beyond 64 KiB, which is where this disk ends.

    In a process of its own: the limit holds for all threads, and those of the writer
    that come late report to a loop that has closed.
    """
    command = [sys.executable, "-c", FULL_DISK, str(two_steps)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.match(f"a checkpoint in {two_steps} .*written: ", said)
    assert checkpoint.restore(two_steps, state()).step == 2
    assert (two_steps / "bns_jax_3.orbax-checkpoint-tmp").exists()
    checkpoint.save(two_steps, 3, state(3))
    assert names(two_steps) == steps(1, 2, 3)
    assert_same(checkpoint.restore(two_steps, state()).state, state(3))


def fails_to_commit(monkeypatch):
    """The writer's thread comes upon a full disk at the end of a step."""

    def fails(*args, **kwargs):
        raise OSError(28, "No space left on device\nwith a long story")

    monkeypatch.setattr("bns_jax.checkpoint.manager._Sealed.finalize", fails)


def test_a_save_that_fails_late_is_an_error_on_leaving(two_steps, monkeypatch):
    with monkeypatch.context() as patch:
        fails_to_commit(patch)
        expected = f"a checkpoint in {two_steps} could not be written: .*No space left"
        with (
            pytest.raises(OSError, match=expected) as caught,
            checkpoint.Checkpointer(two_steps) as saver,
        ):
            saver.save(3, state(3))
        assert "story" not in str(caught.value)
    assert checkpoint.restore(two_steps, state()).step == 2


def test_a_save_that_fails_late_hides_no_other_error(two_steps, monkeypatch):
    with monkeypatch.context() as patch:
        fails_to_commit(patch)
        with (
            pytest.raises(RuntimeError, match="of the caller"),
            checkpoint.Checkpointer(two_steps) as saver,
        ):
            saver.save(3, state(3))
            raise RuntimeError("of the caller")
    assert checkpoint.restore(two_steps, state()).step == 2


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_lock_that_cannot_be_had_is_an_error_of_who_writes(
    two_steps, monkeypatch, number
):
    def fails(path, flags, mode=0o777):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("bns_jax.lock.os.open", fails)
        with pytest.raises(OSError, match=rf"{two_steps}/\.lock"):
            checkpoint.save(two_steps, 3, state(3))
    assert names(two_steps) == steps(1, 2)


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


# --- what is not ours, and what cannot be ---------------------------------------------


def test_nothing_is_removed_but_our_own_steps(tmp_path):
    """Folders of numbers, of orbax, and of names that only look like numbers."""
    strangers = ("2023/thesis.txt", "5/state/x", "²/x", "7.orbax-checkpoint-tmp/x")
    strangers += (
        "bns_jax_007/x",
        "bns_jax_²/x",
        "bns_jax_x/x",
        "bns_jax_8",
        "bns_jax/x",
    )
    for name in strangers:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    with checkpoint.Checkpointer(tmp_path) as saver:
        for step in (5, 2023, 2024, 2025):
            saver.save(step, state(step))
    assert checkpoint.restore(tmp_path, state()).step == 2025
    assert all((tmp_path / name).read_text() == "mine" for name in strangers)
    assert set(steps(2023, 2024, 2025)) <= set(names(tmp_path))
    assert not set(steps(5)) & set(names(tmp_path))


@pytest.mark.parametrize("other", [2, 9])
def test_a_folder_that_is_named_as_a_step_is_refused(tmp_path, other):
    checkpoint.save(tmp_path, 5, state(5))
    mine = tmp_path / f"bns_jax_{other}" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    for use in (
        lambda: checkpoint.save(tmp_path, 6, state(6)),
        lambda: checkpoint.restore(tmp_path, state()),
    ):
        with pytest.raises(ValueError, match="is named as a step of a checkpoint, and"):
            use()
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "use",
    [
        lambda path: checkpoint.save(path, 1, state()),
        lambda path: checkpoint.restore(path, state()),
        checkpoint.newest_metadata,
    ],
)
@pytest.mark.parametrize("path", ["", None, 5, "a\0b"])
def test_what_is_no_path_is_not_the_working_directory(tmp_path, monkeypatch, use, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=re.escape(f"directory must be a path, got {path!r}")
    ):
        use(path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("use", [checkpoint.restore, checkpoint.save])
def test_a_file_that_cannot_be_read_is_no_damage(two_steps, monkeypatch, use):
    read, before = type(epath.Path()).read_bytes, sorted(two_steps.rglob("*"))

    def fails(path):
        if "bns_jax_2" in path.parts:
            raise OSError(5, "Input/output error", str(path))
        return read(path)

    arguments = (two_steps, state()) if use is checkpoint.restore else (two_steps, 3)
    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path()), "read_bytes", fails)
        with pytest.raises(OSError, match=r"Input/output error: '.*bns_jax_2"):
            use(*arguments, *(() if use is checkpoint.restore else (state(3),)))
    assert sorted(two_steps.rglob("*")) == before
    assert checkpoint.restore(two_steps, state()).step == 2


SAVED_WHOLE = {
    "no entries": {"x": jnp.zeros((0, 3)), "y": jnp.ones(2), "z": np.zeros(0)},
    "nothing but": {"x": jnp.zeros(0)},
    "NumPy scalars": {"f": np.float64(2.5), "i": np.int32(3), "b": np.bool_(True)},
    "Python numbers": {"f": 2.5, "i": 3, "b": True},
    "no axes": {"x": np.asarray(1.5), "y": jnp.asarray(2)},
    "one name in dots": {"a.b": jnp.ones(1), "a": {"b": jnp.zeros(1)}},
    "slashes": {"a/b": jnp.ones(1), "a": {"b": jnp.zeros(1), "": jnp.full(1, 2.0)}},
    "a number as a name": {0: jnp.ones(1), 1: [jnp.zeros(1)]},
    "not contiguous": {"x": np.arange(6.0).reshape(2, 3).T, "y": np.arange(6)[::2]},
}


def zeros_like(leaf):
    return jnp.zeros_like(leaf) if isinstance(leaf, jax.Array) else np.zeros_like(leaf)


@pytest.mark.parametrize("name", SAVED_WHOLE)
def test_every_tree_of_numbers_comes_back(tmp_path, name):
    given = SAVED_WHOLE[name]
    like = jax.tree.map(
        lambda leaf: type(leaf)(0) if np.isscalar(leaf) else zeros_like(leaf), given
    )
    checkpoint.save(tmp_path, 1, given)
    found = checkpoint.restore(tmp_path, like).state
    assert jax.tree.structure(found) == jax.tree.structure(given)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(given), strict=True):
        assert isinstance(a, jax.Array) == isinstance(b, jax.Array)
        assert np.isscalar(a) == np.isscalar(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["no entries", "nothing but", "no axes"])
def test_a_tree_of_shapes_is_filled(tmp_path, name):
    given = jax.tree.map(jnp.asarray, SAVED_WHOLE[name])
    checkpoint.save(tmp_path, 1, given)
    mesh = parallel.data_mesh(jax.devices()[:2])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=parallel.replicated(mesh)
        ),
        given,
    )
    found = checkpoint.restore(tmp_path, like).state
    assert_same(found, given)
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding == parallel.replicated(mesh)


@jax.tree_util.register_pytree_with_keys_class
class Twins:
    """A tree that gives two leaves one path."""

    def tree_flatten_with_keys(self):
        key = jax.tree_util.GetAttrKey("x")
        return ((key, np.ones(1)), (key, np.zeros(1))), None

    @classmethod
    def tree_unflatten(cls, aux, leaves):
        return cls()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ({"x": jnp.ones(1), "name": "adam"}, r"numbers, got \['name'\]: str"),
        ({"x": np.array([None])}, r"got \['x'\]: ndarray of object"),
        ({"x": np.array(["a"])}, r"got \['x'\]: ndarray of <U1"),
        ({"x": 10**30}, r"got \['x'\]: int"),
        ({"x": Twins()}, r"two leaves at one path, \['x'\]\.x"),
    ],
    ids=["text", "objects", "texts", "huge", "twins"],
)
def test_what_is_no_number_is_named_before_anything_is_written(
    tmp_path, refused, message
):
    with pytest.raises(ValueError, match=message):
        checkpoint.save(tmp_path / "run", 1, refused)
    assert not (tmp_path / "run").exists()


def deleted(x):
    x.delete()
    return x


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (lambda: jax.ShapeDtypeStruct((2,), np.float32), "is a shape alone"),
        (lambda: deleted(jnp.ones(2)), "has been deleted or donated"),
    ],
)
def test_a_leaf_without_a_value_is_named(tmp_path, leaf, message):
    with pytest.raises(ValueError, match=rf"but \['x'\] {message}"):
        checkpoint.save(tmp_path / "run", 1, {"x": leaf()})
    assert not (tmp_path / "run").exists()


def test_a_traced_state_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is traced: save outside of jit"):
        jax.jit(lambda x: checkpoint.save(tmp_path / "run", 1, {"x": x}))(1.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [-1, 1.5, "3", None, True])
def test_a_step_is_an_integer_from_0(tmp_path, step):
    with pytest.raises(ValueError, match="step must be an integer from 0"):
        checkpoint.save(tmp_path / "run", step, state())


def test_metadata_that_are_no_json_are_refused(tmp_path):
    with pytest.raises(ValueError, match="metadata must be JSON values"):
        checkpoint.save(tmp_path / "run", 1, state(), {"x": np.zeros(2)})


def strictly(text):
    """JSON values, where NaN and Infinity are none."""

    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def test_metadata_that_are_not_finite_come_back_out_of_strict_json(tmp_path):
    """A history begins with nan; null stays null."""
    given = {
        "history": [[0, np.nan, None], [1, 0.5, -np.inf]],
        "best": {"of": np.float64(np.inf), "": np.nan},
        "nonfinite": [],
    }
    checkpoint.save(tmp_path, 1, state(), given)
    strictly((tmp_path / "bns_jax_1" / "meta" / "metadata").read_text())
    found = checkpoint.newest_metadata(tmp_path)
    assert repr(found) == repr(given | {"best": {"of": np.inf, "": np.nan}})
    assert repr(checkpoint.restore(tmp_path, state()).metadata) == repr(found)


def test_metadata_of_versions_that_wrote_nan_are_read(two_steps):
    item = two_steps / "bns_jax_2" / "meta"
    body = json.loads((item / "metadata").read_text()) | {"metadata": {"x": np.nan}}
    del body["nonfinite"]
    (item / "metadata").write_text(json.dumps(body))
    seal(epath.Path(item))
    assert repr(checkpoint.newest_metadata(two_steps)) == "{'x': nan}"


def reformat(directory, number):
    """The newest step as another version would have left it, seal and all."""
    item = directory / "bns_jax_2" / "meta"
    body = json.loads((item / "metadata").read_text()) | {"format": number}
    (item / "metadata").write_text(json.dumps(body))
    seal(epath.Path(item))


def test_a_newer_version_says_what_to_do(two_steps):
    reformat(two_steps, 3)
    for use in (checkpoint.restore, checkpoint.save):
        with pytest.raises(ValueError, match=r"has format 3.* reads 2: continue with"):
            use(two_steps, *((state(),) if use is checkpoint.restore else (3, state())))


def test_an_older_version_says_what_to_do(two_steps):
    """Its steps were folders named by a number alone."""
    for number in (1, 2):
        (two_steps / f"bns_jax_{number}").rename(two_steps / str(number))
    with pytest.raises(ValueError, match=r"step 2 in .* has format 1"):
        checkpoint.restore(two_steps, state())


def test_a_second_run_in_the_same_directory_is_refused(tmp_path):
    with checkpoint.Checkpointer(tmp_path / "run") as first:
        first.save(1, state(1))
        assert f"process {os.getpid()}" in (tmp_path / "run" / ".lock").read_text()
        with pytest.raises(ValueError, match=r"in use by another run \(process"):
            checkpoint.save(tmp_path / "run", 2, state(2))
        # To read is no harm.
        first.save(3, state(3))
    assert checkpoint.restore(tmp_path / "run", state()).step == 3
    assert names(tmp_path / "run") == steps(1, 3)


@pytest.mark.parametrize("remade", [False, True])
def test_a_lock_that_was_removed_ends_the_saving(tmp_path, remade):
    with (
        pytest.raises(OSError, match="another run may be at work"),
        checkpoint.Checkpointer(tmp_path) as saver,
    ):
        saver.save(1, state(1))
        (tmp_path / ".lock").unlink()
        if remade:
            (tmp_path / ".lock").write_text("somebody")
        saver.save(2, state(2))
    assert checkpoint.restore(tmp_path, state()).step == 1


def test_a_checkpoint_does_not_say_where_it_lies(two_steps):
    for path in two_steps.rglob("*"):
        assert not path.is_file() or str(two_steps).encode() not in path.read_bytes()


def fit(folder):
    """The smallest search that saves its state."""
    return distill.fit(
        families.bns(solvers.euler(1)),
        *problems.shifted_problem(),
        optimizer=distill.gauss_newton().replace(iterations=1, evaluate_every=1),
        checkpoint=folder,
    )


def test_two_searches_in_one_directory_are_one_too_many(tmp_path):
    with checkpoint.Checkpointer(tmp_path):
        with pytest.raises(ValueError, match=f"{tmp_path} is in use by another run"):
            fit(tmp_path)
        assert names(tmp_path) == [".lock"]


@pytest.mark.exhaustive
def test_the_state_of_one_evaluation_is_saved(tmp_path):
    """Its lower triangle has no entries."""
    done = fit(tmp_path)
    assert fit(tmp_path).history[-1] == done.history[-1]


@pytest.mark.exhaustive
def test_a_search_holds_no_infinity(tmp_path):
    with jax.debug_infs(True):
        assert np.isfinite(fit(tmp_path).val_metric)
