"""Laws of a pairs directory: it continues, notices damage, and loses nothing."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from bns_jax import ground_truth

CALLS = []
TIMES = np.array([0.0, 0.5, 1.0])
X0 = np.random.default_rng(0).normal(size=(3, 2))
LABEL = np.array([1.0, 2.0, 3.0])


def field(rate, t, x, label):
    """x' = rate label x, and a mark in CALLS whenever it is evaluated."""
    del t
    jax.debug.callback(lambda: CALLS.append(1))
    return rate * label[:, None] * x


def with_rate(rate):
    return jax.tree_util.Partial(field, jnp.asarray(rate))


def make(directory, **changes):
    """Pairs in three chunks of one sample; every test compiles the same program."""
    settings = {"rtol": 1e-5, "chunk": 1, "save_at": TIMES, "vf": with_rate(-1.0)}
    settings |= {"x0": X0, "label": LABEL, "fingerprint": {"seed": 0}} | changes
    vf, x0, label = map(settings.pop, ("vf", "x0", "label"))
    CALLS.clear()
    return ground_truth.pairs(vf, x0, label, directory=directory, **settings)


def calls():
    jax.effects_barrier()
    return len(CALLS)


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


def test_a_directory_changes_no_number(made):
    assert_equal(make(None), made[0])


def test_the_layout_is_shards_and_a_manifest(made):
    solved, directory = made
    shards = [f"shard-{i:05d}.npz" for i in range(3)]
    manifests = ["manifest.backup.json", "manifest.json"]
    assert sorted(contents(directory)) == [*manifests, *shards]
    manifest = json.loads((directory / "manifest.json").read_text())
    assert sorted(manifest["shards"]) == shards
    assert sum(shard["count"] for shard in manifest["shards"].values()) == solved.size
    assert manifest["fingerprint"]["rtol"] == 1e-5
    assert manifest["fingerprint"]["seed"] == 0


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
        make(tmp_path, progress=interrupt)
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


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_made_again_and_said_so(made, copy, caplog, damage):
    solved, directory = made
    DAMAGE[damage](copy / "shard-00001.npz")
    assert_equal(make(copy), solved)
    assert calls() == solved.nfe[1]
    assert "shard-00001.npz" in caplog.text
    assert "again" in caplog.text
    assert contents(copy) == contents(directory)


class Killed(BaseException):
    pass


def make_and_die(directory, write, kept):
    """The process dies within its n-th write, of which a part is kept."""
    writes = itertools.count()
    write_bytes = type(epath.Path()).write_bytes

    def dies(path, data):
        if next(writes) == write:
            write_bytes(path, data[: int(kept * len(data))])
            raise Killed
        write_bytes(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(epath.Path()), "write_bytes", dies)
        patch.setattr(
            type(epath.Path()),
            "write_text",
            lambda path, text: dies(path, text.encode()),
        )
        with pytest.raises(Killed):
            make(directory)


KEPT = pytest.mark.parametrize("kept", [0, 0.5, 1.0])


@pytest.mark.parametrize("write", range(7))
@KEPT
def test_a_kill_while_writing_loses_the_shard_in_hand_at_most(
    made, tmp_path, write, kept
):
    """Killed in the first manifest; or in a shard, the manifest's copy, or itself."""
    solved, _ = made
    make_and_die(tmp_path, write, kept)
    assert_equal(make(tmp_path), solved)
    # A shard is three writes.
    assert calls() <= solved.nfe[max(write - 1, 0) // 3 :].sum()


@pytest.mark.parametrize("write", range(4))
@KEPT
def test_a_second_kill_loses_no_more_than_the_first(made, tmp_path, write, kept):
    """The first strikes in the manifest that lists the second shard."""
    solved, _ = made
    make_and_die(tmp_path, 6, 0.5)
    make_and_die(tmp_path, write, kept)
    assert_equal(make(tmp_path), solved)
    assert calls() <= solved.nfe[2:].sum()


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
    with pytest.raises(ValueError, match="holds 3 shards, but no whole manifest"):
        make(copy)
    assert contents(copy) == before
    assert calls() == 0


def test_a_full_disk_is_an_error_and_no_good_shard_is_lost(made, tmp_path):
    solved, directory = made

    def fill(done, total, note=""):
        if done == 1:
            (tmp_path / "shard-00001.npz").symlink_to("/dev/full")

    with pytest.raises(OSError, match="No space left"):
        make(tmp_path, progress=fill)
    (tmp_path / "shard-00001.npz").unlink()
    first = (directory / "shard-00000.npz").read_bytes()
    assert (tmp_path / "shard-00000.npz").read_bytes() == first
    assert_equal(make(tmp_path), solved)
    assert calls() == solved.nfe[1:].sum()


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
        ({"vf": with_rate(-2.0)}, ["weights: "]),
        ({"x0": X0 + 1}, ["x0: "]),
        ({"x0": X0.astype(np.float32)}, ["x0: "]),
        ({"label": LABEL + 1}, ["args: "]),
        ({"save_at": [0.0, 1.0]}, ["save_at: "]),
        ({"precision": "default"}, ["precision: there 'highest', here 'default'"]),
        ({"chunk": 2}, ["chunk: there 1, here 2"]),
        ({"fingerprint": {"seed": 1}}, ["seed: there 0, here 1"]),
        ({"fingerprint": {}}, ["seed: there 0, here None"]),
        ({"fingerprint": {"seed": 0, "w": 0.2}}, ["w: there None, here 0.2"]),
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
    with pytest.raises(ValueError, match=r"compared anyway: \['rtol', 'weights'\]"):
        make(tmp_path / "new", fingerprint={"weights": "v1", "rtol": 1, "seed": 0})
    assert not (tmp_path / "new").exists()


def test_another_field_of_the_same_weights_is_refused(made):
    def stranger(rate, t, x, label):
        return x

    vf = jax.tree_util.Partial(stranger, jnp.asarray(-1.0))
    with pytest.raises(ValueError, match=r"field: there 'field', here '.*stranger'"):
        make(made[1], vf=vf)
