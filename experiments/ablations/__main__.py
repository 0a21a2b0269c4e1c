"""What matters for a distilled solver: a table, a CSV file and a plot per question.

    python -m experiments.ablations --model=mixture --studies=start,sigma_0 --nfe=4,8

The studies are the paper's Figure 11 (BNS against BST) and Table 5 (solvers before and
after), its preconditioning sigma_0 and guidance w, where the search starts, and how
many pairs it needs. All train by Gauss-Newton, except that BST's own loss takes Adam.
"""

from __future__ import annotations

from absl import app, flags

from experiments.run import cli, interrupt, session

_ALL = ("figure11", "table5", "sigma_0", "start", "train_pairs", "guidance")

_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run; runs/ablations_MODEL if left out."
)
_STUDIES = flags.DEFINE_list(
    "studies", list(_ALL), f"Studies to run, of {', '.join(_ALL)}."
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations", 0, "Steps; 0 leaves them to the optimizer.", lower_bound=0
)
_TRAIN_PAIRS = flags.DEFINE_integer(
    "train_pairs", 520, "Pairs that solvers are fitted to.", lower_bound=1
)
_MOST_TRAIN_PAIRS = flags.DEFINE_integer(
    "most_train_pairs",
    2048,
    "Most pairs that the study train_pairs fits to, out of 32, 128, 520 and 2048.",
    lower_bound=32,
)
_VALIDATION_PAIRS = flags.DEFINE_integer(
    "validation_pairs", 256, "Pairs that choose the best step.", lower_bound=1
)
flags.adopt_module_key_flags(cli)
flags.set_default(cli.NFE, ["4", "6", "8"])
cli.refuse_odd_nfe()

_FREE_FLAGS = (cli.NFE.name, _STUDIES.name)
_RUN_FLAGS = (
    cli.MODEL,
    cli.WEIGHTS,
    cli.GUIDANCE,
    cli.NFE,
    _STUDIES,
    _ITERATIONS,
    _TRAIN_PAIRS,
    _MOST_TRAIN_PAIRS,
    _VALIDATION_PAIRS,
    cli.TEST_PAIRS,
    cli.RTOL,
    cli.ATOL,
    cli.SEED,
)


@flags.validator(_STUDIES.name, message=f"must be of {', '.join(_ALL)}")
def _studies_exist(names: list[str]) -> bool:
    return bool(names) and set(names) <= set(_ALL)


def main(argv: list[str]) -> None:
    """Runs the studies that --studies names."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    with session.running():
        _run()


def _run() -> None:
    from bns_jax import distill, tables
    from experiments.ablations import studies, study
    from experiments.job import truth
    from experiments.report import display
    from experiments.run.workdir import Workdir, write_csv

    model = session.load_model()
    workdir = Workdir(_WORKDIR.value or f"runs/ablations_{cli.MODEL.value}")
    workdir.claim(cli.serialize(_RUN_FLAGS), _FREE_FLAGS)
    accuracy = truth.Accuracy(cli.RTOL.value, cli.ATOL.value, cli.SEED.value)
    counts = {
        "train": _TRAIN_PAIRS.value,
        "validation": _VALIDATION_PAIRS.value,
        "test": cli.TEST_PAIRS.value,
    }
    optimizer = distill.gauss_newton()
    bench = studies.Bench(
        model,
        session.load_model,
        truth.make_pairs(model, counts, accuracy, workdir),
        _MOST_TRAIN_PAIRS.value,
        cli.parse_nfe(cli.NFE.value),
        optimizer.replace(iterations=_ITERATIONS.value or optimizer.iterations),
        accuracy,
        workdir,
    )
    for name in _STUDIES.value:
        question = studies.STUDIES[name]
        results = question.run(bench)
        cells = [result.cells() for result in results]
        columns = study.Result._fields
        what = f"{display.psnr_of(model.data_range)}, dB"
        print(f"\n{name}: {what}, on {cli.TEST_PAIRS.value} test pairs\n")
        print(tables.aligned([list(columns), [], *cells]), "\n", flush=True)
        write_csv(workdir.root / f"{name}.csv", columns, cells)
        title = f"{name}: {model.name}"
        path = workdir.root / f"{name}.png"
        study.plot(
            results, path, question.varies, title, question.by_nfe, model.data_range
        )


if __name__ == "__main__":
    interrupt.launch(main)
