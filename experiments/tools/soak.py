"""Kills the main job at random moments of every stage, and compares what comes out.

    python -m experiments.tools.soak --kills=25

runs the main job small, undisturbed, and then again and again with SIGKILL until that
has struck as often as asked. Whatever was killed is started again with the same flags;
the solvers, pairs and weights that it ends with must be those of the undisturbed run,
bit for bit.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

from experiments.run import cli
from experiments.run.config import Config, option


@dataclasses.dataclass(frozen=True)
class SoakConfig(Config):
    """How often to kill what."""

    kills: int = option(25, "How often to kill.", least=1)
    seed: int = option(0, "Of the moments.")
    workdir: str = option("runs/soak", "Folder of all runs, which go.")


_POLL_SECONDS = 0.002
_LOG = "log.txt"
_JOBS = {
    "distil": (
        "--model=mixture",
        "--nfe=2,4",
        "--solvers=midpoint,ddim",
        "--iterations=12",
        "--evaluate_every=1",
        "--train_pairs=300",
        "--validation_pairs=70",
        "--test_pairs=130",
        "--batch=20",
        "--rtol=1e-3",
        "--atol=1e-3",
    ),
    "pretrain": (
        "--stage=pretrain",
        "--pretrain_iterations=8",
        "--pretrain_evaluate_every=2",
    ),
}
_FILES = ("solvers/*.json", "pairs/*/*.npy")


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to strike.

    Attributes:
      stage: what the job is doing then.
      progress: progress(folder) -> how far it is.
      advance: how much further than at its start it must be.
      seconds: to wait then, at most.
      saving: whether to wait for a save to begin, too.
    """

    stage: str
    progress: Callable[[pathlib.Path], int]
    advance: int
    seconds: float
    saving: bool = False


def _shards(folder: pathlib.Path) -> int:
    return sum(1 for _ in folder.glob("pairs/*/shard-*.json"))


def _step(name: str) -> Callable[[pathlib.Path], int]:
    """The newest saved step of the checkpoints of a name, -1 before the first."""

    def step(folder: pathlib.Path) -> int:
        steps = folder.glob(f"checkpoints/{name}*/bns_jax_*")
        numbers = (path.name.removeprefix("bns_jax_") for path in steps)
        return max((int(text) for text in numbers if text.isdecimal()), default=-1)

    return step


def _comparisons(folder: pathlib.Path) -> int:
    """How often the jobs of all folders have spoken of comparing solvers."""
    path = folder.parent / _LOG
    return path.read_text().count("\ncompare ") if path.exists() else 0


def _is_saving(folder: pathlib.Path) -> bool:
    return any(folder.glob("checkpoints/*/*orbax-checkpoint-tmp*"))


def _laps() -> list[tuple[str, list[Moment]]]:
    """The kills of one run of each job, in the order of its stages."""
    distil = [Moment("pairs", _shards, advance, 0.3) for advance in (1, 2, 1)]
    for name in ("bns_2", "bns_4"):
        distil += [
            Moment("distillation", _step(name), 2, 0.3),
            Moment("saving", _step(name), 1, 0.02, saving=True),
        ]
    distil += [Moment("evaluation", _comparisons, 1, 0.5) for _ in range(2)]
    pretrain = [
        Moment("pretraining", _step("pretrain"), 2, 2.0),
        Moment("saving", _step("pretrain"), 1, 0.02, saving=True),
        Moment("pretraining", _step("pretrain"), 2, 2.0),
    ]
    return [("distil", distil), ("pretrain", pretrain)]


def main(config: SoakConfig) -> None:
    """Kills, restarts, compares, and prints the moments."""
    from bns_jax import tables

    root = pathlib.Path(config.workdir)
    _empty(root)
    chance = random.Random(config.seed)
    rows: list[list[str]] = []
    for job in _JOBS:
        _finish(job, root / f"undisturbed_{job}", root)
    for lap, (job, moments) in enumerate(itertools.cycle(_laps())):
        folder = root / f"lap_{lap}_{job}"
        struck: list[list[str]] = []
        for moment in moments[: config.kills - len(rows)]:
            seconds = _kill_at(moment, job, folder, root, chance)
            if seconds is not None:
                struck.append([moment.stage, f"{seconds:.2f}", _held(job, folder)])
        _finish(job, folder, root)
        same = _results(folder) == _results(root / f"undisturbed_{job}")
        for row in struck:
            number = str(len(rows) + 1)
            rows.append([number, job, *row, "identical" if same else "DIFFERS"])
            print("  ".join(rows[-1]), flush=True)
        if len(rows) >= config.kills:
            break
    columns = ["kill", "job", "stage", "after s", "workdir held", "result"]
    print("\n" + tables.aligned([columns, [], *rows]) + "\n")
    identical = sum(row[-1] == "identical" for row in rows)
    print(f"{identical} of {len(rows)} identical to the undisturbed run")
    if identical < len(rows):
        sys.exit("error: a run that was killed ended differently")


def _empty(root: pathlib.Path) -> None:
    """Removes earlier runs, but not what was compiled for them."""
    root.mkdir(parents=True, exist_ok=True)
    (root / _LOG).unlink(missing_ok=True)
    for folder in [*root.glob("undisturbed_*"), *root.glob("lap_*")]:
        shutil.rmtree(folder)


def _start(job: str, folder: pathlib.Path, root: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.digits", f"--workdir={folder}"]
    # What was compiled once is not compiled again: restarts are cheap.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str((root / "compiled").resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with open(root / _LOG, "a") as log:
        return subprocess.Popen(
            [*command, *_JOBS[job]],
            env=os.environ | cache,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _kill_at(
    moment: Moment,
    job: str,
    folder: pathlib.Path,
    root: pathlib.Path,
    chance: random.Random,
) -> float | None:
    """Starts a job and kills it; the seconds it had, None if it ended before."""
    goal = moment.progress(folder) + moment.advance
    began = time.monotonic()
    process = _start(job, folder, root)
    while process.poll() is None:
        there = moment.progress(folder) >= goal
        if there and (not moment.saving or _is_saving(folder)):
            time.sleep(chance.uniform(0.0, moment.seconds))
            break
        time.sleep(_POLL_SECONDS)
    struck = process.poll() is None
    process.kill()
    process.wait()
    return time.monotonic() - began if struck else None


def _finish(job: str, folder: pathlib.Path, root: pathlib.Path) -> None:
    """Runs a job to its end."""
    code = _start(job, folder, root).wait()
    if code != 0:
        sys.exit(f"error: {job} ended with code {code}; see {root / _LOG}")


def _held(job: str, folder: pathlib.Path) -> str:
    if job == "pretrain":
        return f"step {_step('pretrain')(folder)}"
    steps = ", ".join(f"bns_{nfe} at {_step(f'bns_{nfe}')(folder)}" for nfe in (2, 4))
    return f"{_shards(folder)} shards, {steps}".replace(" at -1", " not begun")


def _results(folder: pathlib.Path) -> dict[str, str | bytes]:
    """What a run must end with: files as they are, and the numbers of the weights.

    The header of a safetensors file has its entries in any order.
    """
    from bns_jax.models import weights
    from bns_jax.pytree import checksum

    found: dict[str, str | bytes] = {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in _FILES
        for path in sorted(folder.glob(pattern))
    }
    for path in folder.glob("weights.safetensors"):
        found[path.name] = checksum(weights.load(path))
    return found


if __name__ == "__main__":
    cli.launch(main, SoakConfig)
