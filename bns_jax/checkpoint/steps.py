"""The steps of a checkpoint directory: their names, and whether they are whole.

A step is the folder `bns_jax_STEP`, of two items: `state`, as orbax writes it, and
`meta`, a JSON file. Each is sealed by the checksums of its files before it is
committed. Folders of other names are somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

FORMAT = 2
PREFIX = "bns_jax"
STATE, META = "state", "meta"
_SEAL = "sha256.json"
_UNFINISHED = ".orbax-checkpoint-tmp"
_COMMITTED = "commit_success.txt"


class Survey(NamedTuple):
    """What a directory holds.

    Attributes:
      newest: the newest step that is whole; None if there is none.
      meta: the text of its meta item.
      damaged: the steps that are not whole.
    """

    newest: int | None
    meta: str
    damaged: list[int]


def survey(directory: epath.Path | None) -> Survey:
    """Compares every step with its seal.

    Args:
      directory: of the steps; None, or one that is missing, holds none.

    Returns:
      The newest whole step and the damaged ones, which a warning names.

    Raises:
      ValueError: if there are steps but none is whole, or they are of another version.
      OSError: if a file cannot be read, which is no damage.
    """
    newest, meta, damaged = None, "", []
    for step in sorted(_steps(directory)):
        assert directory is not None
        _check_own(directory / f"{PREFIX}_{step}")
        folder = directory / f"{PREFIX}_{step}"
        try:
            _check_seal(folder / STATE)
            _check_seal(folder / META)
            newest, meta = step, (folder / META / "metadata").read_text()
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            damaged.append(step)
            logging.warning(
                "checkpoint step %d in %s is passed over: %s", step, directory, error
            )
    if damaged and newest is None:
        raise ValueError(
            f"no step in {directory} (found {damaged}) can be restored: all of them "
            "are damaged"
        )
    if newest is not None:
        _check_format(f"step {newest} in {directory}", json.loads(meta).get("format"))
    elif directory is not None and (older := _older(directory)):
        _check_format(f"step {max(older)} in {directory}", 1)
    return Survey(newest, meta, damaged)


def seal(item: epath.Path) -> None:
    """Writes the checksums of an item that is about to be committed.

    Args:
      item: its folder.
    """
    (item / _SEAL).write_text(json.dumps(dict(_checksums(item))))


def tidy(directory: epath.Path) -> None:
    """Removes what saves that died have left, and paths that they had no time for.

    Args:
      directory: of the steps.
    """
    for step in _steps(directory):
        forget_paths(directory, step)
    if directory.exists():
        for path in directory.iterdir():
            if path.name.startswith(f"{PREFIX}_") and _UNFINISHED in path.name:
                path.rmtree()


def forget_paths(directory: epath.Path, step: int) -> None:
    """Removes the path of the directory from what orbax notes of a commit.

    Only that the file is there counts.

    Args:
      directory: of the steps.
      step: that was committed.
    """
    folder = directory / f"{PREFIX}_{step}"
    for path in (folder, folder / STATE, folder / META):
        if (path / _COMMITTED).exists():
            (path / _COMMITTED).write_text("committed")


def _check_own(folder: epath.Path) -> None:
    """Refuses a folder that is named as a step and is none: orbax would remove it."""
    if any(folder.iterdir()) and not any((folder / n).exists() for n in (STATE, META)):
        raise ValueError(
            f"{folder} is named as a step of a checkpoint, and holds none; move it "
            "away, or give another directory"
        )


def _check_format(where: str, found: object) -> None:
    if found == FORMAT:
        return
    raise ValueError(
        f"{where} has format {found}, and this version of bns_jax reads {FORMAT}: "
        "continue with the version that wrote it, or give another directory"
    )


def _check_seal(directory: epath.Path) -> None:
    """Raises unless every sealed file is there and unchanged."""
    sealed = json.loads((directory / _SEAL).read_text())
    found = dict(_checksums(directory))
    for name, digest in sealed.items():
        if found.get(name) != digest:
            raise ValueError(
                f"{directory / name}: expected sha256 {digest}, got {found.get(name)}"
            )


def _checksums(directory: epath.Path) -> Iterator[tuple[str, str]]:
    """Every file below a directory but the seal itself, with its checksum."""
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            for name, digest in _checksums(path):
                yield f"{path.name}/{name}", digest
        elif path.name not in (_SEAL, _COMMITTED):
            yield path.name, hashlib.sha256(path.read_bytes()).hexdigest()


def _steps(directory: epath.Path | None) -> list[int]:
    """The steps that orbax has committed, by their names."""
    return [int(name) for name in _after(f"{PREFIX}_", directory)]


def _older(directory: epath.Path) -> list[int]:
    """The steps of format 1, whose folders had a number alone."""
    names = _after("", directory)
    return [int(name) for name in names if (directory / name / META / _SEAL).exists()]


def _after(prefix: str, directory: epath.Path | None) -> list[str]:
    """The numbers that follow a prefix in the names of a directory."""
    if directory is None or not directory.exists():
        return []
    found = (
        re.fullmatch(f"{prefix}(0|[1-9][0-9]*)", path.name)
        for path in directory.iterdir()
        if path.is_dir()
    )
    return [match[1] for match in found if match]
