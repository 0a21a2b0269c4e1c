"""The law of files: whoever dies while writing one leaves what was there."""

import errno

import numpy as np
import pytest
from etils import epath

from bns_jax import files, interchange, metrics, solvers
from bns_jax.models import inception, load, state_dict, weights
from experiments.run.workdir import Workdir, write_csv

WRITERS = {
    "text": lambda path, n: files.write(path, "line\n" * n),
    "bytes": lambda path, n: files.write(path, b"\0\xff" * n),
    "table": lambda path, n: write_csv(path, ["x", "y"], [(n, n)] * 9),
    "solver": lambda path, n: interchange.save(path, solvers.euler(n)),
    "weights": lambda path, n: weights.save(path, {"w": np.full(9, n)}, {}),
    "run.flags": lambda path, n: Workdir(path.parent).claim({f"flag_{n}": "0"}),
}


READERS = {
    "solver": interchange.load,
    "metadata": interchange.load_metadata,
    "weights": weights.load,
    "tensors": state_dict.read,
    "checkpoint": lambda path: load("sit_xl_2", path),
    "inception": inception.load,
    "statistics": metrics.read_statistics,
}
IMPOSTORS = {
    "is empty": b"",
    "is a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:",
    "is a page of HTML": b"\n <!DOCTYPE html><html><head><title>Not found</title>",
}


@pytest.mark.parametrize("told", IMPOSTORS)
@pytest.mark.parametrize("name", READERS)
def test_what_stands_in_place_of_a_file_is_said(tmp_path, name, told):
    path = tmp_path / "file"
    path.write_bytes(IMPOSTORS[told])
    with pytest.raises(ValueError, match=rf"{path}.* {told}"):
        READERS[name](path)


@pytest.mark.parametrize("name", READERS)
def test_a_path_without_a_file_is_named(tmp_path, name):
    for path in (tmp_path, tmp_path / "none", tmp_path / "none" / "file"):
        with pytest.raises(ValueError, match=f"no .* file at {path}$"):
            READERS[name](path)


class Killed(BaseException):
    pass


class Dying:
    """A file whose writer dies half-way."""

    def __init__(self, file):
        self._file = file

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._file.close()

    def write(self, data):
        self._file.write(data[: len(data) // 2])
        raise Killed


@pytest.mark.parametrize("name", WRITERS)
def test_a_kill_while_writing_leaves_the_file_as_it_was(tmp_path, monkeypatch, name):
    write, path = WRITERS[name], epath.Path(tmp_path / "folder" / name)
    write(path, 1)
    before = path.read_bytes()
    opened = type(path).open

    def dies(path, mode="r", **options):
        file = opened(path, mode, **options)
        return Dying(file) if "w" in mode else file

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "open", dies)
        with pytest.raises(Killed):
            write(path, 2)
    assert path.read_bytes() == before
    write(path, 2)
    assert path.read_bytes() != before
    assert not list(path.parent.glob("*.unfinished"))


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_said_with_the_path(tmp_path, monkeypatch, name):
    write, path = WRITERS[name], epath.Path(tmp_path / "folder" / name)
    write(path, 1)
    before = path.read_bytes()

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "write_bytes", full)
        with pytest.raises(
            (OSError, ValueError), match=f"No space .* device: '{path}'"
        ):
            write(path, 2)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.unfinished"))


@pytest.mark.parametrize("part", [3, 4, 8, 100])
def test_one_byte_more_than_a_file_may_have_is_one_too_many(
    tmp_path, monkeypatch, part
):
    monkeypatch.setattr(files, "_PART", part)
    path = tmp_path / "file"
    path.write_bytes(b"12345678")
    assert files.read(path, "text", 8) == b"12345678"
    path.write_bytes(b"123456789")
    with pytest.raises(ValueError, match="at most 8 bytes, got more"):
        files.read(path, "text", 8)
