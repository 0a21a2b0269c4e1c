"""Laws of the weights file: exact, and it notices damage."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from bns_jax.models import weights


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return {
        "Dense_0": {
            "kernel": rng.normal(size=(3, 5)).astype(np.float32),
            "bias": rng.normal(size=5),
        },
        "table": rng.integers(0, 9, (2, 2)),
        "mask": np.array([True, False]),
        "half": rng.normal(size=4).astype(jnp.bfloat16),
    }


METADATA = {"architecture": {"channels": [24, 64]}, "loss": 0.25, "command": "train"}


@pytest.fixture(scope="module")
def path(params, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    weights.save(path, params, METADATA)
    return path


def assert_same(got, expected):
    assert set(got) == set(expected)
    for name, leaf in expected.items():
        if isinstance(leaf, dict):
            assert_same(got[name], leaf)
        else:
            assert got[name].dtype == leaf.dtype
            assert got[name].shape == leaf.shape
            assert got[name].tobytes() == leaf.tobytes()


def test_the_round_trip_is_exact(path, params):
    loaded, metadata = weights.load(path)
    assert_same(loaded, params)
    assert metadata == METADATA


LAYOUTS = {
    "columns": np.asfortranarray,
    "transposed": lambda x: x.T,
    "every other": lambda x: x[::2, ::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "big-endian": lambda x: x.astype(">f4"),
    "one number": lambda x: x[1, 2],
    "0-d": lambda x: np.array(x[1, 2]),
    "none": lambda x: x[:0].T,
    "jax, columns": lambda x: jax.device_put(
        x, Format(Layout((1, 0)), SingleDeviceSharding(jax.devices()[0]))
    ),
    "jax, transposed": lambda x: jnp.asarray(x).T,
}


@pytest.mark.parametrize("kind", list(LAYOUTS))
def test_every_layout_of_memory_is_written_as_its_numbers(tmp_path, kind):
    leaf = LAYOUTS[kind](np.arange(20, dtype=np.float32).reshape(4, 5))
    path = tmp_path / "weights"
    weights.save(path, {"x": leaf}, {})
    got, _ = weights.load(path)
    assert got["x"].shape == np.shape(leaf)
    assert got["x"].dtype == np.float32
    np.testing.assert_array_equal(got["x"], leaf)
    # Another reader of the format sees the same.
    theirs = safetensors.numpy.load(path.read_bytes())["x"]
    np.testing.assert_array_equal(theirs, leaf)


def refused(path, data):
    """A damaged copy beside `path` is refused with its own name."""
    damaged = path.with_name("damaged.safetensors")
    damaged.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged\.safetensors is damaged"):
        weights.load(damaged)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -40, -1])
def test_a_truncated_file_is_refused(path, kept):
    refused(path, path.read_bytes()[:kept])


def test_a_flipped_bit_of_any_tensor_byte_is_refused(path):
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for place in range(header, len(data)):
        refused(path, _flip(data, place, 0x10))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_flipped_bit_of_the_header_changes_nothing_unnoticed(path, params, data):
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(0, header - 1))
    damaged = path.with_name("damaged.safetensors")
    damaged.write_bytes(_flip(content, place, 1 << data.draw(st.integers(0, 7))))
    try:
        loaded, metadata = weights.load(damaged)
    except ValueError as error:
        assert str(damaged) in str(error)
    else:
        assert_same(loaded, params)
        assert metadata == METADATA


def _flip(data, place, bit):
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" * 40, b"{}", b"\x80\x04K\x01."])
def test_a_foreign_file_is_refused(path, content):
    refused(path, content)


def test_a_safetensors_file_of_others_is_refused(path):
    safetensors = pytest.importorskip("safetensors.numpy")
    refused(path, safetensors.save({"x": np.zeros(3)}))
    refused(path, safetensors.save({"x": np.zeros(3)}, {"format": "np"}))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "C64"])
def test_other_numbers_are_named(path, dtype):
    size = 8 if dtype == "C64" else 1
    entry = {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}
    header = json.dumps({"x": entry}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(size)
    refused(path, data)
    with pytest.raises(ValueError, match=f"expected numbers of F64, .*, got {dtype}"):
        weights.tensors(data)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"no weights file at {tmp_path}/none"):
        weights.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {k: v for k, v in p.items() if k != "half"}, "missing half"),
        (lambda p: p | {"extra": np.zeros(1)}, "left over extra"),
        (
            lambda p: p | {"table": np.zeros((2, 3))},
            r"table: expected shape \(2, 2\), got \(2, 3\)",
        ),
    ],
)
def test_weights_of_another_network_are_named(params, change, message):
    weights.check(params, params, "model")
    with pytest.raises(ValueError, match=f"model does not fit the network: {message}"):
        weights.check(change(params), params, "model")


@pytest.mark.parametrize("kind", [bool, np.int64, np.complex64, np.nan, np.inf])
def test_only_finite_numbers_are_weights(params, kind):
    bias = np.ones(5, kind) if isinstance(kind, type) else np.full(5, kind)
    changed = {**params, "Dense_0": {**params["Dense_0"], "bias": bias}}
    message = "Dense_0/bias: (expected floating-point numbers, got|5 numbers are not f)"
    with pytest.raises(ValueError, match=message):
        weights.check(changed, params, "model")


def test_what_the_file_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "weights"
    for leaf in (
        np.ones(2, np.complex64),
        np.array(["x"]),
        np.ones(1, jnp.float8_e5m2),
    ):
        with pytest.raises(ValueError, match=rf"numbers of F64, .*{leaf.dtype}"):
            weights.save(path, {"x": leaf}, {})
    with pytest.raises(ValueError, match="metadata must be JSON values"):
        weights.save(path, {"x": np.ones(2)}, {"loss": np.float32(1)})
    assert not path.exists()
