"""What a trainer reaches for how many field calls: Gauss-Newton against Algorithm 2.

    python -m experiments.bench_distill --model=mixture --nfe=4,8,16

Both fit the same pairs. Algorithm 2 starts from the midpoint method and takes 15,000
steps of Adam; Gauss-Newton starts from the greedy solver, whose calls are counted, and
runs once per seed. Every solver on the way is measured on the test pairs. Runs continue
where they stopped, so that Algorithm 2 may be spread over days.

    python -m experiments.bench_distill --model=mixture --histories=FOLDER

shows what runs have left there, such as `experiments/bench_distill/histories/mixture`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from experiments.run import cli, interrupt, session

if TYPE_CHECKING:
    from experiments.bench_distill.duel import Duel
    from experiments.models.models import Model
    from experiments.run.workdir import Workdir

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run; runs/bench_distill_MODEL if left out."
)
_HISTORIES = flags.DEFINE_string(
    "histories", "", "Folder of histories to show, instead of running anything."
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 3, "Runs of Gauss-Newton, of which the median counts.", lower_bound=1
)
_ITERATIONS = flags.DEFINE_integer(
    "algorithm2_iterations", 15_000, "Steps of Algorithm 2.", lower_bound=1
)
_TRAIN_PAIRS = flags.DEFINE_integer(
    "train_pairs", 520, "Pairs that solvers are fitted to.", lower_bound=40
)
_VALIDATION_PAIRS = flags.DEFINE_integer(
    "validation_pairs", 256, "Pairs that choose the best step.", lower_bound=1
)
flags.adopt_module_key_flags(cli)
flags.set_default(cli.NFE, ["4", "8", "16"])
cli.refuse_odd_nfe()

_RUN_FLAGS = (
    cli.MODEL,
    cli.WEIGHTS,
    cli.GUIDANCE,
    _ITERATIONS,
    _TRAIN_PAIRS,
    _VALIDATION_PAIRS,
    cli.TEST_PAIRS,
    cli.RTOL,
    cli.ATOL,
    cli.SEED,
)


def main(argv: list[str]) -> None:
    """Runs the benchmark."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    with session.running():
        _run()


def _run() -> None:
    from experiments.bench_distill import duel
    from experiments.report import display
    from experiments.run.workdir import Workdir

    model = session.load_model()
    workdir = Workdir(_WORKDIR.value or f"runs/bench_distill_{cli.MODEL.value}")
    all_nfe = cli.parse_nfe(cli.NFE.value)
    if _HISTORIES.value:
        duels = [duel.read(_HISTORIES.value, nfe) for nfe in all_nfe]
    else:
        duels = _duels(model, workdir, all_nfe)
    what = f"{display.psnr_of(model.data_range)}, dB"
    print(f"\n{what}, on the test pairs, {model.title}\n")
    print(duel.table(duels))
    path = workdir.root / "psnr_vs_forwards.png"
    duel.plot(duels, path, model.title, model.data_range)
    print(f"\nin {workdir.root}: psnr_vs_forwards.png")


def _duels(model: Model, workdir: Workdir, all_nfe: Sequence[int]) -> list[Duel]:
    """Runs both trainers, each to its end; what the workdir has of them is read."""
    from experiments.bench_distill import duel
    from experiments.job import truth

    workdir.claim(cli.serialize(_RUN_FLAGS))
    accuracy = truth.Accuracy(cli.RTOL.value, cli.ATOL.value, cli.SEED.value)
    counts = {
        "train": _TRAIN_PAIRS.value,
        "validation": _VALIDATION_PAIRS.value,
        "test": cli.TEST_PAIRS.value,
    }
    pairs = truth.make_pairs(model, counts, accuracy, workdir)
    return [
        duel.run(model, pairs, nfe, _ITERATIONS.value, _SEEDS.value, workdir)
        for nfe in all_nfe
    ]


if __name__ == "__main__":
    interrupt.launch(main)
