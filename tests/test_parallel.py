"""Laws of laying batches over devices."""

import concurrent.futures
import socket
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from bns_jax import parallel
from bns_jax.pytree import checksum


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


@given(st.integers(1, 300), st.integers(1, 100), st.integers(0, 8))
def test_batches_hold_every_row_once_and_are_of_one_size(count, size, devices):
    mesh = parallel.data_mesh(jax.devices()[:devices]) if devices else None
    batches = list(parallel.batches(count, size, mesh))
    kept = np.concatenate([rows[:kept] for rows, kept in batches])
    np.testing.assert_array_equal(kept, np.arange(count))
    assert all(rows.max() < count for rows, _ in batches)
    (length,) = {len(rows) for rows, _ in batches}
    assert length % max(devices, 1) == 0
    # Only the devices may ask for more rows than were asked for.
    assert length < size + max(devices, 1)
    assert len(batches) <= -(-count // size)


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


@pytest.mark.parametrize("devices", [[], (), [0, 1]])
def test_a_mesh_of_nothing_is_not_one_of_all(devices):
    with pytest.raises(ValueError, match="a mesh needs a list of devices, got"):
        parallel.data_mesh(devices)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_batch_holds_something(size):
    with pytest.raises(ValueError, match="a batch must hold a number of rows from 1"):
        list(parallel.batches(5, size, None))


def test_a_leaf_without_a_batch_axis_is_refused():
    with pytest.raises(ValueError, match="leading batch axis"):
        parallel.shard({"x": np.zeros(8), "t": np.float64(0.5)}, parallel.data_mesh())


def test_fsdp_lays_the_longest_axis_that_the_devices_divide():
    weights = {
        "dense": np.arange(16 * 24.0).reshape(16, 24),
        "tall": np.arange(32 * 3.0).reshape(32, 3),
        "odd": np.ones((7, 9)),
        "bias": np.ones(8),
        "scale": 0.5,
    }
    laid = parallel.fsdp(weights, parallel.data_mesh(), least=16)
    same(laid, weights)
    specs = {
        name: laid[name].sharding.spec for name in ("dense", "tall", "odd", "bias")
    }
    assert specs == {
        "dense": PartitionSpec(None, "batch"),
        "tall": PartitionSpec("batch", None),
        "odd": PartitionSpec(),
        "bias": PartitionSpec(),
    }
    assert laid["scale"] == 0.5 and isinstance(laid["scale"], float)


def test_place_leaves_what_lies_on_the_devices_and_replicates_the_rest():
    mesh = parallel.data_mesh()
    sharded = parallel.shard(np.ones((8, 2)), mesh)
    elsewhere = jax.device_put(np.ones(3), jax.devices()[1])
    placed = parallel.place([sharded, elsewhere, np.ones(4), 0.2], mesh)
    assert placed[0] is sharded
    assert placed[1].sharding == placed[2].sharding == parallel.replicated(mesh)
    assert placed[3] == 0.2
    alone = parallel.place([*placed, np.ones(4)], None)
    assert all(got is given for got, given in zip(alone, placed, strict=False))
    # Or it would travel to the device at every call.
    assert isinstance(alone[-1], jax.Array)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", 2, None), "together, got host:1, 2, None"),
        ((None, 2, 0), "together, got None, 2, 0"),
        (("host:1", 2, 2), "from 0 to 1, got 2"),
        (("host", 2, 1), "must be host:port, got 'host'"),
        (("host:http", 2, 1), "must be host:port"),
        (("host:²", 2, 1), "must be host:port"),
        (("host:70000", 2, 1), "must be host:port"),
        ((1234, 2, 1), "must be host:port, got 1234"),
        (("host:1", 0, 0), "num_processes must be an integer from 1, got 0"),
        (("host:1", 2.0, 1), "num_processes must be an integer from 1, got 2.0"),
        (("host:1", 2, "1"), "process_id must be an integer from 0, got '1'"),
        (("host:1", 2, -1), "process_id must be an integer from 0, got -1"),
    ],
)
def test_a_start_with_bad_addresses_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        parallel.start(*given)


def test_a_coordinator_that_does_not_answer_is_named():
    with socket.socket() as listener:
        # Bound, but nobody listens.
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"no coordinator answers at {address}"):
            parallel.start(address, 2, 1, timeout=1)


def test_off_by_default(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    parallel.start()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize("platforms", [None, "", "tpu", "tpu,cpu"])
def test_on_a_cloud_tpu_the_processes_meet_by_themselves(monkeypatch, platforms):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if platforms is not None:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr("glob.glob", lambda pattern: ["/dev/accel0"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    met = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **kw: met.append(kw))
    parallel.start(timeout=7)
    assert met == [{"initialization_timeout": 7}]


def test_one_process_agrees_with_itself():
    parallel.agree({"seed": "0"})
    assert parallel.gather_text("ö") == ["ö"]
    assert parallel.if_everywhere(0) == 0
    assert parallel.if_everywhere(None) is None
    done = []
    assert parallel.on_main(lambda: done.append(1)) == ""
    assert done == [1]
    assert parallel.on_main(lambda: "ö") == "ö"


class Together:
    """The processes of a run as threads, which gather what each of them gives."""

    def __init__(self, monkeypatch, count):
        self._given, self._barrier = [None] * count, threading.Barrier(count)
        self._of_thread = threading.local()
        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(jax, "process_index", lambda: self._of_thread.index)
        monkeypatch.setattr(multihost_utils, "process_allgather", self._gather)

    def _gather(self, leaf):
        self._given[self._of_thread.index] = leaf
        self._barrier.wait(timeout=60)
        # As XLA would, it takes arrays of one shape alone.
        rows = np.stack(self._given)
        self._barrier.wait(timeout=60)
        return rows

    def run(self, function, *values):
        """What function(value) gives, or raises, in each process."""

        def as_process(index, value):
            self._of_thread.index = index
            try:
                return function(value)
            except (ValueError, OSError) as error:
                return repr(error)

        with concurrent.futures.ThreadPoolExecutor(len(values)) as pool:
            return list(pool.map(as_process, range(len(values)), values))


@pytest.mark.parametrize("texts", [("", "ö", "a longer one"), ("", "", "")])
def test_texts_of_any_length_are_gathered_in_order(monkeypatch, texts):
    got = Together(monkeypatch, 3).run(parallel.gather_text, *texts)
    assert got == 3 * [list(texts)]


def test_what_one_process_lacks_no_process_has(monkeypatch):
    together = Together(monkeypatch, 2)
    assert together.run(parallel.if_everywhere, 0, "x") == [0, "x"]
    assert together.run(parallel.if_everywhere, 0, None) == [None, None]


@pytest.mark.parametrize("kind", [ValueError, OSError])
def test_what_fails_on_process_0_fails_on_all(monkeypatch, kind):
    done = []

    def act(number):
        done.append(number)
        if number == 7:
            raise kind("no space left")
        return f"saved {number}"

    together = Together(monkeypatch, 2)
    run = lambda number: parallel.on_main(lambda: act(number))  # noqa: E731
    assert together.run(run, 3, 4) == ["saved 3", "saved 3"]
    assert together.run(run, 7, 8) == 2 * [repr(kind("no space left"))]
    assert done == [3, 7]


@pytest.mark.parametrize("what", ["flags", "settings"])
def test_processes_that_differ_are_told_where(monkeypatch, what):
    together = Together(monkeypatch, 2)
    settings = [{"seed": "0", "w": "0.2"}, {"seed": "1", "w": "0.2"}, {"w": "0.2"}]
    agree = lambda given: parallel.agree(given, what)  # noqa: E731
    assert together.run(agree, settings[0], settings[0]) == [None, None]
    name = "--seed" if what == "flags" else "seed"
    for there, here, other in ((0, 1, "1"), (0, 2, "None")):
        got = together.run(agree, settings[there], settings[here])
        expected = ValueError(
            f"the processes of one run must have the same {what}:\n"
            f"  {name}: 0 on process 0, {other} on process 1"
        )
        assert got == 2 * [repr(expected)]


def test_each_process_puts_its_part_on_the_devices_that_all_share(monkeypatch):
    """As where the devices of a sharding are those of several processes."""
    mesh, array = parallel.data_mesh(), np.arange(16).reshape(8, 2)
    there = parallel.replicate({"x": np.arange(3.0), "key": jax.random.key(3)}, mesh)
    alone = {"array": array, "jax": jnp.asarray(array), "key": jax.random.key(3)}
    with monkeypatch.context() as patch:
        patch.setattr(NamedSharding, "is_fully_addressable", False)
        laid = parallel.shard(array, mesh)
        assert checksum(laid) == checksum(array)
        copies = parallel.replicate(alone | {"there": there, "number": 0.5}, mesh)
        assert copies["there"]["x"] is there["x"]
        assert copies["there"]["key"] is there["key"]
    assert copies.pop("number") == 0.5
    assert laid.sharding.spec == PartitionSpec("batch")
    same(laid, array)
    for name in alone:
        assert copies[name].sharding == parallel.replicated(mesh)
    same(*(jax.random.key_data(tree.pop("key")) for tree in (copies, alone)))
    same([copies["array"], copies["jax"]], [array, array])


def test_what_fails_on_process_0_is_an_error_that_says_so():
    def full():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        parallel.on_main(full)


@pytest.mark.parametrize("lay", [parallel.place, parallel.fsdp])
def test_an_array_that_stands_in_two_places_stays_one(lay):
    weights = np.ones((8, 2**12))
    laid = lay({"conditional": weights, "unconditional": weights}, parallel.data_mesh())
    assert laid["conditional"] is laid["unconditional"]
