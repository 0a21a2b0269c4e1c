"""Our reader of weight files against files that torch itself wrote."""

import argparse
import collections
import pathlib
import pickle
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax.models import state_dict

torch = pytest.importorskip("torch", reason="parity needs pip install -e '.[parity]'")

KINDS = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool"]


def as_numpy(tensor):
    is_bfloat16 = tensor.dtype == torch.bfloat16
    return (tensor.float() if is_bfloat16 else tensor).detach().numpy()


def assert_same(got, tensors):
    assert set(got) == set(tensors)
    for name, tensor in tensors.items():
        assert str(got[name].dtype) == str(tensor.dtype).removeprefix("torch.")
        expected = as_numpy(tensor)
        assert got[name].shape == expected.shape
        assert np.all(got[name].astype(expected.dtype) == expected)


@pytest.fixture(scope="module")
def tensors():
    generator = torch.Generator().manual_seed(0)
    drawn = 100 * torch.rand(6, 4, generator=generator)
    made = {kind: drawn.to(getattr(torch, kind)) for kind in KINDS}
    # Views of one storage, in another order, and of no numbers at all.
    made |= {"turned": drawn.T, "part": drawn[2:5, 1::2], "scalar": drawn[0, 0]}
    return made | {"empty": drawn[:0], "parameter": torch.nn.Parameter(drawn[1])}


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_state_dict(tmp_path, tensors, is_archive):
    path = tmp_path / "model.pt"
    torch.save(tensors, path, _use_new_zipfile_serialization=is_archive)
    assert_same(state_dict.read(path), tensors)


@pytest.mark.parametrize("kind", ["archive", "stream", "pickle"])
def test_a_network(tmp_path, kind):
    torch.manual_seed(0)
    inner = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(3, 4, 3)})
    inner["norm"] = torch.nn.BatchNorm1d(5)
    network = torch.nn.ModuleList([torch.nn.Linear(2, 3), inner])
    path = tmp_path / "network.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"ema": network}))
    else:
        is_archive = kind == "archive"
        torch.save(network, path, _use_new_zipfile_serialization=is_archive)
    assert_same(state_dict.read(path), network.state_dict())


def test_a_training_checkpoint_with_an_optimizer(tmp_path):
    network = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    parts = {"opt": optimizer.state_dict(), "ema": network.state_dict(), "epoch": 3}
    torch.save(parts, tmp_path / "checkpoint.pt")
    assert_same(state_dict.read(tmp_path / "checkpoint.pt"), network.state_dict())


class Marked(torch.Tensor):
    """A tensor of a class of its own."""


def with_attributes(tensor):
    tensor.kept = True
    return tensor


def optimizer():
    network = torch.nn.Linear(2, 3)
    made = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, 2)).sum().backward()
    made.step()
    return made


def sparse(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sparse tensors as such
        return getattr(torch.eye(3), f"to_sparse{kind}")()


FLOATS = torch.arange(6.0).reshape(2, 3)
FOREIGN = {
    "namespace": lambda: argparse.Namespace(lr=1e-4, path=pathlib.Path("a")),
    "counter": lambda: collections.Counter("abca"),
    "defaultdict": lambda: collections.defaultdict(list, {3: [FLOATS]}),
    "path": lambda: pathlib.Path("runs/dit"),
    "dtype": lambda: [torch.float32, np.dtype("f4"), np.float16],
    "device": lambda: [torch.device("cpu"), torch.Size([2])],
    "random state": lambda: [
        np.random.RandomState(0).get_state(),
        torch.get_rng_state(),
        torch.Generator(),
    ],
    "generator": lambda: [np.random.default_rng(0), np.random.RandomState(0)],
    "numpy array": lambda: FLOATS.numpy(),
    "optimizer": optimizer,
    "scheduler": lambda: torch.optim.lr_scheduler.StepLR(optimizer(), 3),
    "loss": lambda: [torch.nn.MSELoss(), torch.nn.functional.relu],
    "parameter with attributes": lambda: with_attributes(torch.nn.Parameter(FLOATS)),
    "tensor with attributes": lambda: with_attributes(FLOATS.clone()),
    "tensor of a class": lambda: FLOATS.as_subclass(Marked),
    "buffer": lambda: torch.nn.Buffer(FLOATS),
    "quantized tensor": lambda: torch.quantize_per_tensor(FLOATS, 0.1, 0, torch.qint8),
    "sparse tensor": lambda: sparse(""),
    "sparse tensor of rows": lambda: sparse("_csr"),
    "complex tensor": lambda: torch.complex(FLOATS, -FLOATS),
    "conjugate tensor": lambda: torch.complex(FLOATS, FLOATS).conj(),
    "negated tensor": lambda: torch.complex(FLOATS, FLOATS).conj().imag,
    "8-bit tensor": lambda: FLOATS.to(torch.float8_e4m3fn),
    "tensor of uint16": lambda: FLOATS.to(torch.uint16),
    "tensor elsewhere": lambda: FLOATS.to("meta"),
}
READ = {
    "numpy array": np.float32,
    "parameter with attributes": np.float32,
    "tensor with attributes": np.float32,
    "tensor of a class": np.float32,
    "buffer": np.float32,
    "complex tensor": np.complex64,
    "8-bit tensor": jnp.float8_e4m3fn,
    "tensor of uint16": np.uint16,
}
UNREAD = [kind for kind in FOREIGN if "tensor" in kind and kind not in READ]


@pytest.mark.parametrize("kind", list(FOREIGN))
@pytest.mark.parametrize("is_archive", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_what_is_foreign_beside_weights(tmp_path, is_archive, kind):
    good = {"layer.weight": FLOATS.clone(), "layer.bias": torch.ones(3)}
    thing, path = FOREIGN[kind](), tmp_path / "training.pt"

    def read(content):
        torch.save(content, path, _use_new_zipfile_serialization=is_archive)
        return state_dict.read(path)

    assert_same(read({"args": thing, "model": good, "more": [thing]}), good)
    got = read({**good, "foreign": thing})
    assert_same({k: v for k, v in got.items() if k != "foreign"}, good)
    if kind in READ:
        assert got["foreign"].dtype == READ[kind]
        expected = np.asarray(FLOATS) * (1 - 1j if "complex" in kind else 1)
        np.testing.assert_array_equal(got["foreign"].astype(expected.dtype), expected)
    else:
        assert "foreign" not in got
    assert (kind in UNREAD) == ("foreign" in got.unread)
    if kind in UNREAD:
        with pytest.raises(ValueError, match="foreign is a torch"):
            read({"foreign": thing})
