"""Laws of a pairs directory: it continues, notices damage, and loses nothing."""

import errno
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from bns_jax import Problem, ground_truth, leaf_files, pair_store
from bns_jax.pair_store import PairStore
from bns_jax.pairs import Pairs

CALLS = []
LOOK = 9  # At five times, and at two of them about each of two samples too.
TIMES = np.array([0.0, 0.5, 1.0])
X0 = np.random.default_rng(0).normal(size=(3, 2))
LABEL = np.array([1.0, 2.0, 3.0])


def field(rate, t, x, label):
    """x' = rate label x, and a mark in CALLS whenever it is evaluated."""
    del t
    jax.debug.callback(lambda: CALLS.append(1))
    return (rate * label[:, None]).astype(x.dtype) * x


def with_rate(rate):
    return jax.tree_util.Partial(field, jnp.asarray(rate))


def make(directory, **changes):
    """Pairs in three chunks of one sample; every test compiles the same program."""
    settings = {"rtol": 1e-5, "chunk": 1, "save_at": TIMES, "vf": with_rate(-1.0)}
    settings |= {"x0": X0, "label": LABEL, "facts": {"seed": 0}, "data": None} | changes
    vf, x0, label, facts, data = map(
        settings.pop, ("vf", "x0", "label", "facts", "data")
    )
    CALLS.clear()
    problem = Problem(vf, facts=facts, data=data)
    return ground_truth.pairs(problem, x0, label, directory=directory, **settings)


def calls():
    jax.effects_barrier()
    return len(CALLS) - LOOK


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pairs, their directory, and the directory's contents."""
    directory = tmp_path_factory.mktemp("pairs") / "train"
    solved = make(directory)
    assert calls() == solved.nfe.sum()
    return solved, directory


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the directory, to damage."""
    for name, data in contents(made[1]).items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_the_pairs_are_the_closed_form(made):
    solved, _ = made
    exact = X0 * np.exp(-LABEL)[:, None]
    np.testing.assert_allclose(solved.x1, exact, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(solved.args[0], LABEL)


def test_pairs_unlike_the_data_are_said_to_be(made):
    like = made[0].x1
    make(None, data=like)
    make(None, data=1.2 * like)
    mean, deviation = np.mean(like), np.std(like)
    for unlike in (5 * like, like / 5, like + 9):
        message = (
            f"the solved samples have mean {mean:.3g} and standard deviation "
            f"{deviation:.3g}, the data {np.mean(unlike):.3g} and {np.std(unlike):.3g}:"
        )
        with pytest.warns(UserWarning, match=re.escape(message)):
            make(None, data=unlike)


def test_a_directory_changes_no_number(made):
    assert_equal(make(None), made[0])


def test_the_layout_is_a_plain_file_for_each_leaf(made):
    solved, directory = made
    leaves = {"000-x0": solved.x0, "001-x1": solved.x1, "002-args": solved.args[0]}
    leaves |= {"003-nfe": solved.nfe, "005-path": solved.path}
    shards = [f"shard-{i:05d}.json" for i in range(3)]
    manifests = ["manifest.backup.json", "manifest.json"]
    expected = [*(f"{name}.npy" for name in leaves), *manifests, *shards]
    assert sorted(contents(directory)) == expected
    for name, leaf in leaves.items():
        for mode in (None, "r"):
            assert_equal(np.load(directory / f"{name}.npy", mmap_mode=mode), leaf)
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["fingerprint"]["rtol"] == 1e-5
    assert manifest["fingerprint"]["seed"] == 0
    np.testing.assert_array_equal(manifest["times"], TIMES)


def test_what_comes_back_can_be_used_and_changed_as_any_array(made):
    solved, directory = made
    before, rows = contents(directory), np.array([2, 0])
    mapped = make(directory)
    for leaf in jax.tree.leaves(mapped):
        assert type(leaf) is np.ndarray
    np.testing.assert_array_equal(mapped.x0[rows], X0[rows])
    np.testing.assert_array_equal(mapped.path[:, rows], solved.path[:, rows])
    mapped.x1[...] = 0.0
    assert contents(directory) == before


def test_a_second_call_reads_and_never_calls_the_field(made):
    solved, directory = made
    before = contents(directory)
    assert_equal(make(directory), solved)
    assert calls() == 0
    assert contents(directory) == before


def test_an_interrupted_run_continues_where_it_stopped(made, tmp_path):
    solved, _ = made

    def interrupt(done, total, note=""):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, report=interrupt)
    assert calls() == solved.nfe[:2].sum()
    assert_equal(make(tmp_path), solved)
    assert calls() == solved.nfe[2]


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


DAMAGE = {
    "flipped": _flip,
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


def _exchange(path):
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(entry | {"of": "0" * 64}))


@pytest.mark.parametrize("damage", [*DAMAGE, "of others"])
def test_a_damaged_shard_is_made_again_and_said_so(made, copy, caplog, damage):
    solved, directory = made
    ({"of others": _exchange} | DAMAGE)[damage](copy / "shard-00001.json")
    assert_equal(make(copy), solved)
    assert calls() == solved.nfe[1]
    if damage != "missing":
        assert "shard-00001" in caplog.text
        assert "again" in caplog.text
    assert contents(copy) == contents(directory)


@pytest.mark.parametrize("name", ["000-x0.npy", "003-nfe.npy", "005-path.npy"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_leaf_is_mended(made, copy, caplog, name, damage):
    solved, directory = made
    DAMAGE[damage](copy / name)
    assert_equal(make(copy), solved)
    lost = calls()
    assert lost > 0 or damage == "flipped"
    assert ("again" in caplog.text) == (lost > 0)
    assert contents(copy) == contents(directory)


def test_a_flipped_byte_costs_its_own_shard(made, copy):
    solved, _ = made
    path = copy / "001-x1.npy"
    data = bytearray(path.read_bytes())
    # 128 bytes of header, then two numbers of 8 bytes for each sample.
    data[128 + 16 * 1] ^= 1
    path.write_bytes(data)
    assert_equal(make(copy), solved)
    assert calls() == solved.nfe[1]


class Killed(BaseException):
    pass


class Dying:
    """A file that is opened to be written, and counts what is."""

    def __init__(self, file, write):
        self._file, self._write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        self._write(data, self._file.write)


def make_and_die(directory, write, kept):
    """The process dies within its n-th write, of which a part is kept."""
    writes = itertools.count()
    write_bytes = type(epath.Path()).write_bytes

    def dies(data, really_write):
        if next(writes) == write:
            really_write(data[: int(kept * len(data))])
            raise Killed
        really_write(data)

    def opens(path, mode):
        file = open(path, mode)  # noqa: SIM115
        return file if mode == "rb" else Dying(file, dies)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaf_files, "open", opens, raising=False)
        patch.setattr(
            type(epath.Path()),
            "write_bytes",
            lambda path, data: dies(data, lambda part: write_bytes(path, part)),
        )
        with pytest.raises(Killed):
            make(directory)


KEPT = pytest.mark.parametrize("kept", [0, 0.5, 1.0])
BEFORE, SHARD = 2 + 5, 4 + len(TIMES) + 1
"""Writes of the manifests and headers, and of a shard: its leaves, the path's points,
and the seal."""


@pytest.mark.parametrize("write", range(BEFORE + 2 * SHARD))
@KEPT
def test_a_kill_while_writing_loses_the_shard_in_hand_at_most(
    made, tmp_path, write, kept
):
    solved, directory = made
    make_and_die(tmp_path, write, kept)
    assert_equal(make(tmp_path), solved)
    finished = max(write - BEFORE, 0) // SHARD
    assert calls() == solved.nfe[finished:].sum()
    kept = [name for name in contents(tmp_path) if not name.endswith(".unfinished")]
    assert sorted(kept) == sorted(contents(directory))


@pytest.mark.parametrize("write", range(0, SHARD + 5, 2))
@KEPT
def test_a_second_kill_loses_no_more_than_the_first(made, tmp_path, write, kept):
    """The first strikes in the seal of the second shard."""
    solved, _ = made
    make_and_die(tmp_path, BEFORE + 2 * SHARD - 1, 0.5)
    make_and_die(tmp_path, write, kept)
    assert_equal(make(tmp_path), solved)
    assert calls() == solved.nfe[1 if write < SHARD else 2 :].sum()


@pytest.mark.parametrize("name", ["manifest.json", "manifest.backup.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest_loses_no_shard(made, copy, name, damage):
    solved, _ = made
    DAMAGE[damage](copy / name)
    assert_equal(make(copy), solved)
    assert calls() == 0


@pytest.mark.parametrize("damage", DAMAGE)
def test_shards_without_a_whole_manifest_are_refused(copy, damage):
    for name in ("manifest.json", "manifest.backup.json"):
        DAMAGE[damage](copy / name)
    before = contents(copy)
    with pytest.raises(ValueError, match="holds 8 shards or leaves, but no whole"):
        make(copy)
    assert contents(copy) == before
    assert calls() == 0


@pytest.mark.parametrize("name", ["001-x1.npy", "shard-00001.json.unfinished"])
def test_a_full_disk_is_an_error_and_no_good_shard_is_lost(made, tmp_path, name):
    solved, _ = made
    make_and_die(tmp_path, BEFORE + 2 * SHARD - 1, 0.5)
    kept = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/full")
    shown = str(tmp_path / name).removesuffix(".unfinished")
    with pytest.raises(OSError, match=f"No space left on device: '{shown}'"):
        make(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).write_bytes(kept)
    assert_equal(make(tmp_path), solved)
    assert calls() == solved.nfe[1:].sum()


@pytest.mark.parametrize("name", ["manifest.json", "shard-00001.json", "000-x0.npy"])
def test_what_cannot_be_read_is_no_damage(made, copy, monkeypatch, name):
    _, directory = made

    def fails(path, *args):
        raise OSError(5, "Input/output error", str(path))

    def fails_there(function):
        return lambda path, *args: (fails if path.name == name else function)(
            path, *args
        )

    with monkeypatch.context() as patch:
        read = fails_there(type(epath.Path()).read_text)
        patch.setattr(type(epath.Path()), "read_text", read)
        patch.setattr(leaf_files, "open", fails_there(open), raising=False)
        with pytest.raises(OSError, match=f"Input/output error: '.*{name}"):
            make(copy)
    assert contents(copy) == contents(directory)
    assert calls() == 0


@pytest.mark.parametrize("text", ['{"name": "my app"}', "[1]", '{"format": "other/9"}'])
def test_a_manifest_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json.*expected format"):
        make(tmp_path)
    assert contents(tmp_path) == {"manifest.json": text.encode()}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rtol": 1e-6}, ["rtol: there 1e-05, here 1e-06"]),
        ({"atol": 1e-7}, ["atol: there 1e-05, here 1e-07"]),
        ({"vf": with_rate(-2.0)}, ["field: ", "field_weights: "]),
        ({"x0": X0 + 1}, ["x0: "]),
        ({"x0": X0.astype(np.float32)}, ["x0: "]),
        ({"label": LABEL + 1}, ["args: "]),
        ({"save_at": [0.0, 1.0]}, ["save_at: "]),
        ({"precision": "default"}, ["precision: there 'highest', here 'default'"]),
        ({"chunk": 2}, ["chunk: there 1, here 2"]),
        ({"facts": {"seed": 1}}, ["seed: there 0, here 1"]),
        ({"facts": {}}, ["seed: there 0, here None"]),
        ({"facts": {"seed": 0, "w": 0.2}}, ["w: there None, here 0.2"]),
        ({"rtol": 1e-6, "x0": X0 + 1}, ["rtol: ", "x0: "]),
    ],
)
def test_another_configuration_is_refused_by_name(made, changes, named):
    _, directory = made
    before = contents(directory)
    with pytest.raises(ValueError, match="another configuration") as caught:
        make(directory, **changes)
    reasons = str(caught.value).partition("; ")[2].split("; ")
    assert len(reasons) == len(named)
    for reason, start in zip(reasons, sorted(named), strict=True):
        assert reason.startswith(start)
    assert contents(directory) == before
    assert calls() == 0


def test_what_is_compared_anyway_cannot_be_named_otherwise(tmp_path):
    with pytest.raises(ValueError, match=r"compared anyway: \['field', 'rtol'\]"):
        make(tmp_path / "new", facts={"field": "v1", "rtol": 1, "seed": 0})
    assert not (tmp_path / "new").exists()


def test_another_field_of_the_same_weights_is_refused(made):
    def stranger(rate, t, x, label):
        return x

    vf = jax.tree_util.Partial(stranger, jnp.asarray(-1.0))
    with pytest.raises(ValueError, match=r"field: there .*, here '.*stranger"):
        make(made[1], vf=vf)


@pytest.mark.parametrize("value", [np.nan, np.inf, np.zeros(2), {1}, b"x", object()])
def test_a_fingerprint_that_no_file_can_keep_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="fingerprint must hold JSON values, got w="):
        make(tmp_path / "new", facts={"seed": 0, "w": value})
    assert not (tmp_path / "new").exists()


def test_an_empty_path_is_not_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="a pairs directory must be a path, got ''"):
        make("")
    assert contents(tmp_path) == {}


# --- shards that are files of their own -----------------------------------------------


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def older(made, tmp_path):
    """The pairs in format 2, of which the third shard is missing."""
    solved, directory = made
    shards = {}
    for i in range(2):
        rows = slice(i, i + 1)
        leaves = [solved.x0[rows], solved.x1[rows], solved.args[0][rows]]
        leaves += [solved.nfe[rows], solved.times, solved.path[:, rows]]
        arrays = {f"{k:03d}": leaf for k, leaf in enumerate(leaves)}
        path = tmp_path / f"shard-{i:05d}.npz"
        np.savez(path, **arrays)
        shards[path.name] = {
            "count": 1,
            "sha256": digest(path.read_bytes()),
            "shapes": {key: list(leaf.shape) for key, leaf in arrays.items()},
            "dtypes": {key: str(leaf.dtype) for key, leaf in arrays.items()},
        }
    fingerprint = json.loads((directory / "manifest.json").read_text())["fingerprint"]
    manifest = {"format": "bns_jax.pairs/2", "fingerprint": fingerprint}
    manifest["shards"] = shards
    seal = {"sha256": digest(json.dumps(manifest, sort_keys=True).encode())}
    for name in ("manifest.json", "manifest.backup.json"):
        (tmp_path / name).write_text(json.dumps({**seal, **manifest}, indent=1))
    return tmp_path


def test_a_directory_of_format_2_is_read_and_continued(made, older):
    solved, _ = made
    before = contents(older)
    assert_equal(make(older), solved)
    assert calls() == solved.nfe[2]
    after = contents(older)
    assert {name: after[name] for name in before} == before
    assert sorted(after.keys() - before) == ["shard-00002.json", "shard-00002.npz"]
    assert_equal(make(older), solved)
    assert calls() == 0


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_of_format_2_is_made_again(made, older, damage):
    solved, _ = made
    DAMAGE[damage](older / "shard-00001.npz")
    assert_equal(make(older), solved)
    assert calls() == solved.nfe[1:].sum()
    assert_equal(make(older), solved)
    assert calls() == 0


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A folder whose files cannot be written in part."""
    monkeypatch.setattr(pair_store, "_is_local", lambda directory: False)
    return tmp_path


def test_in_a_bucket_a_shard_is_a_file(made, bucket):
    solved, _ = made
    for expected in (solved.nfe.sum(), 0):
        assert_equal(make(bucket), solved)
        assert calls() == expected
    shards = [f"shard-{i:05d}.{kind}" for i in range(3) for kind in ("json", "npz")]
    manifests = ["manifest.backup.json", "manifest.json"]
    assert sorted(contents(bucket)) == [*manifests, *shards]
    _flip(bucket / "shard-00001.npz")
    assert_equal(make(bucket), solved)
    assert calls() == solved.nfe[1]


def several_leaves(rows, count=5):
    """Some of `count` pairs, with every kind of leaf."""
    x = np.arange(count * 6, dtype=np.float32).reshape(count, 3, 2)[rows]
    label = np.arange(count, dtype=np.int8)[rows]
    half = jnp.arange(count, dtype=jnp.bfloat16)[rows]
    args = {"b": half, "e": np.zeros((len(x), 0)), "f": np.asfortranarray(2 * x)}
    path = np.stack([x, 2 * x, 3 * x])
    return Pairs(
        {"x": x, "y": label},
        {"x": 3 * x, "y": label},
        (args, label > 2),
        7 + label.astype(int),
        TIMES,
        {"x": path, "y": np.stack(3 * [label])},
    )


@pytest.mark.parametrize("local", [True, False])
def test_every_kind_of_leaf_comes_back(tmp_path, monkeypatch, local):
    monkeypatch.setattr(pair_store, "_is_local", lambda directory: local)
    whole = jax.tree.map(np.asarray, several_leaves(slice(None)))
    for again in (False, True):
        store = PairStore(tmp_path, {}, whole, chunk=2)
        for i, rows in enumerate([slice(2), slice(2, 4), slice(4, None)]):
            part = jax.tree.map(np.asarray, several_leaves(rows))
            if again:
                assert_equal(store.read(i), part)
            else:
                assert store.read(i) is None
                store.write(i, part)
        assert_equal(store.load(), whole)


def test_what_no_shard_was_written_to_is_not_loaded(tmp_path):
    whole = jax.tree.map(np.asarray, several_leaves(slice(None)))
    store = PairStore(tmp_path, {}, whole, chunk=2)
    with pytest.raises(ValueError, match=f"{tmp_path} holds no pairs yet"):
        store.load()


def test_only_process_0_writes(tmp_path, monkeypatch):
    whole = jax.tree.map(np.asarray, several_leaves(slice(None)))
    part = jax.tree.map(np.asarray, several_leaves(slice(2)))
    first, second = (PairStore(tmp_path, {}, whole, chunk=2) for _ in range(2))
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(pair_store.parallel, "is_main", lambda: False)
        second.write(0, part)
    assert contents(tmp_path) == before
    first.write(0, part)
    assert_equal(PairStore(tmp_path, {}, whole, chunk=2).read(0), part)


# --- a file for each leaf -------------------------------------------------------------

LEAF = leaf_files.Leaf("x.npy", 0, "<f8", (3, 2))


def fallocate_fails(monkeypatch, number):
    def fails(handle, start, size):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", fails, raising=False)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_without_room_is_an_error_before_long_work(
    tmp_path, monkeypatch, number
):
    fallocate_fails(monkeypatch, number)
    with pytest.raises(OSError, match=rf"{tmp_path}/x\.npy") as caught:
        leaf_files.LeafFiles(tmp_path, [LEAF]).make()
    assert caught.value.errno == number


def test_a_disk_that_fills_up_meanwhile_is_named(tmp_path):
    files = leaf_files.LeafFiles(tmp_path, [LEAF])
    files.make()
    (tmp_path / "x.npy").unlink()
    (tmp_path / "x.npy").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/x.npy'"):
        files.write(1, [np.ones((2, 2))])


def test_a_file_system_that_takes_no_place_in_advance_will_do(tmp_path, monkeypatch):
    fallocate_fails(monkeypatch, errno.EOPNOTSUPP)
    files = leaf_files.LeafFiles(tmp_path, [LEAF])
    files.make()
    files.write(1, [np.ones((2, 2))])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), [[0, 0], [1, 1], [1, 1]])


def test_a_folder_that_is_gone_is_named_once(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        leaf_files.LeafFiles(tmp_path / "gone", [LEAF]).make()
    assert str(caught.value).count(str(tmp_path / "gone" / "x.npy")) == 1


def test_what_holds_objects_has_no_file():
    for dtype in (np.dtype(object), np.dtype([("a", "O")])):
        with pytest.raises(
            ValueError, match=f"numbers, got one of {re.escape(str(dtype))}"
        ):
            leaf_files.dtype_name(dtype)


MEMORY = """
import resource, sys
import numpy as np
from bns_jax import ground_truth, leaf_files, pair_store
from bns_jax.pair_store import PairStore
from bns_jax.pairs import Pairs

x0 = np.random.default_rng(0).normal(size=(int(sys.argv[1]), 64)).astype(np.float32)
ground_truth.pairs(
    lambda t, x: -x, x0, rtol=1e-2, atol=1e-2, chunk=250, directory=sys.argv[2]
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.exhaustive
def test_ten_times_the_pairs_take_no_more_memory(tmp_path):
    def peak(count):
        command = [sys.executable, "-c", MEMORY, str(count), str(tmp_path / str(count))]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    assert peak(20_000) < 1.1 * peak(2_000)
