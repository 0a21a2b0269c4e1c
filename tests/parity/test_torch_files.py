"""Our reader of weight files against files that torch itself wrote."""

import pickle

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
