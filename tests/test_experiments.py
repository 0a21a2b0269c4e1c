"""The main job and what else runs on a model, by their flags and small."""

import ast
import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import chex
import jax
import numpy as np
import pytest
import scipy.stats
from etils import epath
from flax import nnx

import bns_jax
from bns_jax import distill, interchange, models, parallel, solvers
from bns_jax.models import UNet, UNetConfig, weights
from bns_jax.solvers import COMMON
from experiments.ablations import studies as ablations
from experiments.bench_distill import duel
from experiments.job import comparison, main_job, optimizers
from experiments.job.config import JobConfig
from experiments.models import catalogue, pretrain
from experiments.models.mixture import Mixture
from experiments.report.table import Row
from experiments.run import lock
from tests import programs
from tests.fields import Gaussian
from tests.laws import ALL_SCHEDULERS, assert_close, first_of
from tests.test_pretrain import OneWeight

ROOT = programs.ROOT
# As many pairs of each split: the solver of the ground truth is compiled once.
SMALL = (
    "--nfe=2",
    "--iterations=2",
    "--evaluate_every=2",
    "--train_pairs=8",
    "--validation_pairs=8",
    "--test_pairs=8",
    "--batch=8",
    "--rtol=1e-2",
    "--atol=1e-2",
    "--devices=1",
    "--solvers=euler,ddim,midpoint",
)
MIXTURE = (*SMALL, "--model=mixture", "--stage=distill")
TINY = UNetConfig(channels=(8,), embedding=8, groups=4)


def digits(workdir, *flags):
    return experiment("digits", workdir, *flags)


def experiment(name, workdir, *flags):
    return programs.run(name, f"--workdir={workdir}", *flags)


def contents(folder):
    """Every file but the lock, with its bytes and time of writing."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of all stages at 2 and 4 evaluations, its flags and what it said."""
    workdir = tmp_path_factory.mktemp("digits")
    flags = (*SMALL, "--model=mixture", "--nfe=2,4")
    return workdir, flags, digits(workdir, *flags)


class TestMainJob:
    def test_succeeds_without_a_word_on_stderr(self, finished):
        _, _, done = finished
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""

    def test_table_has_every_solver_and_ends_with_bns(self, finished):
        workdir, _, done = finished
        with open(workdir / "table.csv") as file:
            rows = list(csv.DictReader(file))
        columns = (
            "solver nfe psnr_db low_db high_db gain_db overfit_db forwards seconds"
        )
        assert list(rows[0]) == columns.split()
        for nfe in ("2", "4"):
            block = [row for row in rows if row["nfe"] == nfe]
            assert block[-1]["solver"] == "bns"
            # A forward, two backward passes, two trials, in 2 steps of 8 pairs;
            # before that the greedy start on each grid, with all 8 pairs.
            grids = 3 if nfe == "2" else 4  # the smaller solver's, too
            steps, start = (1 + 2 + 2 + 2) * int(nfe) * 8 * 2, grids * int(nfe) * 8
            assert int(block[-1]["forwards"]) == steps + start
            best = max(float(row["psnr_db"]) for row in block[:-1])
            gain = float(block[-1]["psnr_db"]) - best
            assert float(block[-1]["gain_db"]) == pytest.approx(gain, abs=0.011)
            assert block[-1]["overfit_db"] in done.stdout
        for row in rows:
            values = [float(row[key]) for key in ("low_db", "psnr_db", "high_db")]
            assert values == sorted(values)
            assert row["psnr_db"] in done.stdout

    def test_workdir_has_its_layout(self, finished):
        workdir, _, _ = finished
        for split in ("train", "validation", "test"):
            assert (workdir / "pairs" / split / "manifest.json").exists()
            assert (workdir / "pairs" / split / "shard-00000.json").exists()
        assert "--guidance=0.2" in (workdir / "run.flags").read_text().splitlines()
        for name, start in (("bns_2", "greedy"), ("bns_4", "greedy_after_2")):
            assert (workdir / "checkpoints" / f"{name}_from_{start}").is_dir()
            assert (workdir / "history" / f"{name}.csv").exists()
        for picture in ("psnr_vs_nfe.png", "samples.png"):
            assert (workdir / picture).read_bytes()[1:4] == b"PNG"

    def test_solver_files_run(self, finished):
        workdir, _, _ = finished
        params = interchange.load(workdir / "solvers" / "bns_2.json")
        x1 = bns_jax.sample(params, lambda t, x: -x, jax.numpy.ones((2, 3)))
        assert np.all(np.isfinite(x1))

    def test_solver_files_say_what_they_are_for_and_reach(self, finished):
        workdir, _, _ = finished
        path = workdir / "solvers" / "bns_2.json"
        with open(workdir / "table.csv") as file:
            rows = [row for row in csv.DictReader(file) if row["nfe"] == "2"]
        stated = interchange.load_purpose(path)
        assert stated.prediction == "velocity"
        assert (stated.guidance, stated.nfe, stated.data_range) == (0.2, 2, 2.0)
        assert stated.identity["model"] == "mixture"
        assert len(stated.identity["field_weights"]) == 64
        measured = stated.measured
        shown = (measured.psnr_db, *measured.interval_db, measured.best_other_psnr_db)
        best = max(rows[:-1], key=lambda row: float(row["psnr_db"]))
        written = [rows[-1][key] for key in ("psnr_db", "low_db", "high_db")]
        written.append(best["psnr_db"])
        assert shown == pytest.approx(list(map(float, written)), abs=0.0051)
        assert measured.pairs == 8
        assert measured.best_other in [row["solver"] for row in rows[:-1]]
        field = catalogue.mixture(0.2)
        interchange.load(path, expect=field.purpose({}))
        with pytest.raises(ValueError, match=r"guidance: there 0.2, here 0.5"):
            interchange.load(path, expect=catalogue.mixture(0.5).purpose({}))

    def test_a_second_run_solves_and_trains_nothing(self, finished):
        workdir, flags, _ = finished
        before = contents(workdir)
        again = digits(workdir, *flags, "--stage=distill")
        assert again.returncode == 0, again.stderr
        after = contents(workdir)
        kept = [p for p in before if p.parts[0] in ("pairs", "checkpoints")]
        assert all(before[path] == after[path] for path in kept)
        written = [p for p in before if p.parts[0] in ("solvers", "history")]
        assert all(before[path][0] == after[path][0] for path in written)

    def test_another_run_is_refused_and_nothing_is_lost(self, finished):
        workdir, flags, _ = finished
        before = contents(workdir)
        refused = digits(workdir, *flags, "--guidance=0.5")
        assert refused.returncode == 1
        assert "--guidance: there 0.2, here 0.5" in refused.stderr
        assert contents(workdir) == before

    def test_flags_of_a_run_can_be_given_back_to_it(self, finished):
        workdir, _, _ = finished
        again = digits(
            workdir, f"--flagfile={workdir}/run.flags", "--stage=pairs", "--devices=1"
        )
        assert again.returncode == 0, again.stderr

    def test_an_artefact_of_another_run_is_refused_by_name(self, finished, tmp_path):
        """Solvers and starts say what they are of, whatever their file is called."""
        workdir, flags, _ = finished
        shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
        two, four = (tmp_path / "solvers" / f"bns_{nfe}.json" for nfe in (2, 4))
        kept = two.read_bytes()

        shutil.copy(two, four)
        shutil.copy(tmp_path / "history/bns_2.csv", tmp_path / "history/bns_4.csv")
        refused = digits(tmp_path, *flags, "--stage=distill")
        assert refused.returncode == 1
        assert (
            f"{four} is of another run; nfe: there 2, here 4; remove" in refused.stderr
        )
        four.unlink()

        (tmp_path / "run.flags").unlink()
        others = ("--optimizer=adam", "--init=euler", "--sigma_0=3", "--iterations=5")
        refused = digits(tmp_path, *MIXTURE, *others)
        assert refused.returncode == 1
        assert f"{two} is of another run; " in refused.stderr
        for named in (
            "init: there 'greedy', here 'euler'",
            "here 'adam(0.0005, polynomial)'",
            "sigma_0: there 1.0, here 3.0",
            "iterations: there 2, here 5",
        ):
            assert named in refused.stderr
        assert two.read_bytes() == kept

    def test_a_start_of_another_run_is_refused_by_name(self, finished, tmp_path):
        shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
        two, four = (tmp_path / "starts" / f"greedy_{nfe}.json" for nfe in (2, 4))
        shutil.copy(two, four)
        (tmp_path / "solvers" / "bns_4.json").unlink()
        refused = digits(tmp_path, *MIXTURE, "--nfe=4")
        assert refused.returncode == 1
        assert f"{four} is another start; " in refused.stderr
        assert "nfe: there 2, here 4" in refused.stderr


@pytest.mark.exhaustive
def test_the_network_that_ships_is_distilled_without_a_word_on_stderr(tmp_path):
    flags = (*SMALL, "--nfe=1", "--solvers=euler", "--iterations=1")
    done = programs.in_its_process("digits", f"--workdir={tmp_path}", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "solvers" / "bns_1.json").exists()


@pytest.fixture(scope="module")
def by_algorithm_2(tmp_path_factory):
    """A run that was left alone, its flags, and what it said."""
    flags = [*MIXTURE, "--optimizer=adam", "--init=midpoint"]
    workdir = tmp_path_factory.mktemp("algorithm_2")
    return workdir, flags, digits(workdir, *flags)


@pytest.mark.exhaustive
def test_algorithm_2_by_flags(by_algorithm_2):
    workdir, _, done = by_algorithm_2
    assert done.returncode == 0, done.stderr
    metadata = interchange.load_metadata(workdir / "solvers" / "bns_2.json")
    assert metadata["start"] == "midpoint"
    assert metadata["forwards"] == 3 * 2 * 8 * 2


@contextlib.contextmanager
def signal_once(there, number):
    """This process gets a signal as soon as something is there."""

    def wait():
        while not there():
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


@pytest.mark.exhaustive
def test_a_run_that_was_stopped_continues_to_the_same_solver(by_algorithm_2, tmp_path):
    undisturbed, flags, _ = by_algorithm_2
    with signal_once(lambda: any(tmp_path.glob("pairs/*/shard-*")), signal.SIGTERM):
        stopped = digits(tmp_path, *flags)
    assert "all is saved, the same command continues" in stopped.stdout
    assert not (tmp_path / "solvers").exists()
    again = digits(tmp_path, *flags)
    assert (again.returncode, again.stderr) == (0, "")
    solver = pathlib.Path("solvers") / "bns_2.json"
    assert (tmp_path / solver).read_bytes() == (undisturbed / solver).read_bytes()


@pytest.mark.exhaustive
def test_a_signal_saves_and_ends_a_program_in_order(tmp_path):
    flags = (f"--workdir={tmp_path}", *MIXTURE)
    with programs.started("digits", *flags) as process:
        while not any(tmp_path.glob("pairs/train/shard-*")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)  # SIGTERM: above, in this process
        said, complaints = process.communicate(timeout=120)
    assert (process.returncode, complaints) == (0, "")
    assert "all is saved, the same command continues" in said
    assert not (tmp_path / "solvers").exists()


def test_a_second_run_at_the_same_time_is_refused(tmp_path):
    held = lock.hold(epath.Path(tmp_path))
    refused = digits(tmp_path, *SMALL, "--model=mixture")
    del held
    assert refused.returncode == 1
    assert f"{tmp_path} is in use by another run" in refused.stderr
    assert not (tmp_path / "run.flags").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--nfe=4,x", "must be integers, such as 4,6,8"),
        ("--nfe=0", "must be integers from 1 to 64"),
        ("--guidance=-1", "non-negative"),
        ("--itertions=3", "Did you mean: iterations"),
        ("--batch=600", "must not exceed --train_pairs"),
        ("--rtol=0", "must be positive"),
        ("--sigma_0=0", "must be positive"),
        ("--optimizer=sgd", "should be one of"),
        ("--model=digit", "should be one of"),
        ("--stage=test", "should be one of"),
    ],
)
def test_flags_are_checked(tmp_path, flag, message):
    refused = digits(tmp_path / "run", flag)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ablations", "bench_distill"])
def test_what_needs_the_midpoint_method_refuses_odd_numbers(tmp_path, name):
    refused = experiment(name, tmp_path / "run", "--nfe=4,5")
    assert refused.returncode == 1
    assert "must be even" in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["digits", "compare", "ablations", "bench_distill"])
def test_help_lists_the_flags_that_programs_share(name):
    shown = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "--guidance:" in shown and "--nfe:" in shown
    assert ("--solvers:" in shown) == (name in ("digits", "compare"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--init=eulr"], "the nearest are euler"),
        (["--solvers=ddim,dmp_solver"], "the nearest are dpm_solver"),
        (["--weights=missing.safetensors"], "no weights file"),
    ],
)
def test_bad_input_is_named_before_any_work(tmp_path, flags, message):
    refused = digits(tmp_path / "run", *flags)
    assert refused.returncode == 1
    assert message in refused.stderr + refused.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "common"}, "must be one solver or one of greedy, previous, best"),
        ({"init": "rk4", "nfe": (4, 6)}, "does not exist at 6 evaluations"),
        ({"solvers": ("rk4",), "nfe": (4, 6)}, "none of rk4 exists at 6 evaluations"),
        ({"microbatch": 3}, "must divide the 8 pairs of a step, got 3"),
        ({"microbatch": 4}, "must be a multiple of 8, got 4"),
    ],
)
def test_configurations_that_cannot_be_are_named(changes, message):
    config = JobConfig(nfe=(4,), solvers=("euler",), train_pairs=8, batch=8)
    model = catalogue.mixture(0.2).on(parallel.data_mesh())
    main_job.check(model, config)
    with pytest.raises(ValueError, match=message):
        main_job.check(model, dataclasses.replace(config, **changes))


def test_names_and_weights_that_are_not_there_are_named():
    with pytest.raises(ValueError, match="expected a grid of"):
        solvers.expand(["ddim@kerras"])
    with pytest.raises(ValueError, match="the mixture has no weights"):
        catalogue.load("mixture", 0.2, "file")


@pytest.mark.exhaustive
@pytest.mark.parametrize("init", ["best", "previous"])
def test_other_starts_by_flags(tmp_path, init):
    flags = {"best": ["--optimizer=adam", "--sigma_0=2"], "previous": ["--nfe=2,4"]}
    done = digits(tmp_path, *MIXTURE, f"--init={init}", *flags[init])
    assert done.returncode == 0, done.stderr
    found = [
        interchange.load_metadata(path)
        for path in sorted((tmp_path / "solvers").iterdir())
    ]
    starts = [metadata["start"] for metadata in found]
    if init == "previous":
        assert starts == ["greedy", "bns_2"]
    else:
        assert set(starts) <= set(COMMON)
        assert found[0]["identity"]["sigma_0"] == 2.0


@pytest.mark.exhaustive
def test_a_damaged_solver_is_made_again_and_the_others_are_left(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    two, four = (tmp_path / "solvers" / f"bns_{nfe}.json" for nfe in (2, 4))
    assert interchange.load_metadata(four)["start"] == "greedy_after_2"
    before = interchange.load(two), contents(tmp_path)[four.relative_to(tmp_path)]
    two.write_bytes(two.read_bytes()[:300])
    again = digits(tmp_path, *MIXTURE, "--nfe=2,3,4")
    assert again.returncode == 0, again.stderr
    assert f"{two} is no solver file" in again.stderr
    assert (tmp_path / "solvers" / "bns_3.json").exists()
    after = interchange.load(two), contents(tmp_path)[four.relative_to(tmp_path)]
    chex.assert_trees_all_equal(after[0], before[0])
    assert after[1] == before[1]


@pytest.mark.parametrize(
    "studies",
    [
        ["train_pairs"],
        pytest.param(["figure11", "start"], marks=pytest.mark.exhaustive),
    ],
)
def test_ablations(tmp_path, monkeypatch, studies):
    monkeypatch.setattr(ablations, "_TRAIN_PAIRS", (8,))
    # As the main job above, whose programs are compiled.
    flags = ("--model=mixture", "--nfe=2", "--iterations=2", "--train_pairs=8")
    counts = ("--most_train_pairs=32", "--validation_pairs=8", "--test_pairs=8")
    rest = ("--rtol=1e-2", "--atol=1e-2", "--devices=1")
    given = (*flags, *counts, *rest, f"--studies={','.join(studies)}")
    done = experiment("ablations", tmp_path, *given)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    settings = {}
    for study in studies:
        with open(tmp_path / f"{study}.csv") as file:
            rows = list(csv.DictReader(file))
        settings[study] = {row["setting"] for row in rows}
        for row in rows:
            values = [float(row[key]) for key in ("low_db", "psnr_db", "high_db")]
            assert values == sorted(values)
            assert row["psnr_db"] in done.stdout
        assert (tmp_path / f"{study}.png").read_bytes()[1:4] == b"PNG"
    if "train_pairs" in studies:
        assert settings["train_pairs"] == {"8"}
    else:
        assert len(settings["figure11"]) == 3
        assert settings["start"] == {"euler", "midpoint", "best known", "greedy"}


def test_the_benchmark_of_trainers_shows_what_runs_have_left(tmp_path):
    kept = ROOT / "experiments" / "bench_distill" / "histories" / "mixture"
    flags = ("--model=mixture", "--nfe=4", f"--histories={kept}")
    shown = experiment("bench_distill", tmp_path, *flags)
    assert shown.returncode == 0, shown.stderr
    with open(kept / "algorithm2_4.csv") as file:
        last = [*csv.DictReader(file)][-1]
    assert f"{int(last['forwards']):,}" in shown.stdout
    assert (tmp_path / "psnr_vs_forwards.png").exists()


@pytest.mark.exhaustive
def test_the_benchmark_of_trainers_continues_where_it_stopped(tmp_path):
    flags = ("--model=mixture", "--nfe=2", "--seeds=1", "--algorithm2_iterations=200")
    counts = ("--train_pairs=40", "--validation_pairs=40", "--test_pairs=40")
    counts = (*counts, "--rtol=1e-2", "--devices=1")
    first = experiment("bench_distill", tmp_path, *flags, *counts)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    history = (tmp_path / "history" / "algorithm2_2.csv").read_text()
    assert [row.split(",")[:2] for row in history.splitlines()[1:]] == [
        ["0", "0"],
        ["100", str(3 * 2 * 40 * 100)],
        ["200", str(3 * 2 * 40 * 200)],
    ]
    again = experiment("bench_distill", tmp_path, *flags, *counts)
    assert (tmp_path / "history" / "algorithm2_2.csv").read_text() == history
    shown = experiment(
        "bench_distill", tmp_path / "shown", *flags, f"--histories={tmp_path}/history"
    )
    tables = [
        done.stdout.partition("guidance 0.2")[2].partition("\nin ")[0].strip()
        for done in (first, again, shown)
    ]
    assert tables[1] == tables[0]
    # How exact the pairs are, only who has them can say.
    table, says, _ = tables[0].partition("the ground truth itself reaches")
    assert table and says
    assert tables[2] == table.strip()
    assert (tmp_path / "shown" / "psnr_vs_forwards.png").exists()


def test_a_way_is_at_a_level_when_what_a_user_would_get_is():
    way = [
        duel.Point(0, 0, validation_db=20.0, test_db=20.0),
        duel.Point(1, 10, validation_db=19.0, test_db=40.0),  # by luck, and not kept
        duel.Point(2, 20, validation_db=30.0, test_db=30.0),
        duel.Point(3, 30, validation_db=29.0, test_db=29.0),
    ]
    assert [duel.reaches(way, level) for level in (20, 25, 30)] == [0, 20, 20]
    assert duel.reaches(way, 35) == np.inf


def test_a_solver_that_blew_up_is_never_the_best():
    reached = {"blown up": np.nan, "poor": 3.0, "this too": np.nan}
    rows = [Row(name, 4, db, 0.0, 0.0) for name, db in reached.items()]
    assert comparison.best(rows, 4).solver == "poor"


def test_histories_that_are_not_there_are_named(tmp_path):
    flags = (f"--histories={tmp_path}", "--nfe=4", "--model=mixture")
    refused = experiment("bench_distill", tmp_path / "run", *flags)
    assert refused.returncode == 1
    assert f"at 4 evaluations in {tmp_path}, got 0 and 0" in refused.stderr


def test_a_microbatch_divides_its_batch_and_is_for_cpus(monkeypatch):
    model, optimizer = catalogue.mixture(0.2), distill.gauss_newton()
    for devices in (1, 2):
        model = model.on(parallel.data_mesh(jax.devices()[:devices]))
        size = optimizers.cached(model, optimizer, 260).microbatch
        assert size is not None and 260 % size == 0 and size % devices == 0
        assert optimizers.cached(model, optimizer, 40).microbatch is None
        own = optimizer.replace(microbatch=4)
        assert optimizers.cached(model, own, 260).microbatch == 4
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert optimizers.cached(model, optimizer, 260).microbatch is None


BEGIN = """
import json, os, sys, warnings
import jax
from bns_jax import distill, parallel
from experiments.run import preemption, progress, session
from experiments.job.config import RunConfig

warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)

def begin(model, said="", count=None, platforms="cpu", path="."):
    os.environ["XLA_FLAGS"] = said
    sys.path.insert(0, path)
    jax.config.update("jax_platforms", platforms)
    if count:
        jax.config.update("jax_num_cpu_devices", count)
    with session.running(RunConfig(model=model)):
        print(jax.device_count(), os.environ["XLA_FLAGS"].split(), flush=True)

for given in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        begin(**given)
        os._exit(0)
    os.waitpid(child, 0)
"""
SAID = [
    "--xla_force_host_platform_device_count=3",
    "--xla_backend_optimization_level=2",
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """What programs see, each forked from one that has imported all and begun none."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "jax_plugins" / "one").mkdir(parents=True)
    plugin = folder / "jax_plugins" / "one" / "__init__.py"
    plugin.write_text("def initialize(): pass")
    cases = {
        "small": {"model": "digits"},
        "large": {"model": "adm64"},
        "said": {"model": "digits", "said": " ".join(SAID)},
        "may have an accelerator": {
            "model": "digits",
            "count": 3,
            "platforms": "",
            "path": str(folder),
        },
    }
    command = [sys.executable, "-c", BEGIN, json.dumps([*cases.values()])]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    lines = [line.split(maxsplit=1) for line in ran.stdout.splitlines()]
    ended = [(int(count), ast.literal_eval(xla)) for count, xla in lines]
    assert len(ended) == len(cases), ran.stderr
    return dict(zip(cases, ended, strict=True))


@pytest.mark.exhaustive
class TestCpuOfASmallNetwork:
    """The devices that jax sees once a program has begun, and how it compiles."""

    def test_there_is_one_per_core(self, begun):
        (count, xla), cores = begun["small"], len(os.sched_getaffinity(0))
        assert count <= cores and (2 * count > cores or count == 8)
        assert xla == ["--xla_backend_optimization_level=1"]

    def test_a_large_one_has_the_whole_cpu(self, begun):
        assert begun["large"] == (1, [])

    def test_as_many_as_the_user_says_compiled_as_the_user_says(self, begun):
        assert begun["said"] == (3, SAID)

    def test_it_compiles_as_ever_if_there_may_be_an_accelerator(self, begun):
        assert begun["may have an accelerator"] == (3, [])


class TestCompare:
    FLAGS = ("--model=mixture", "--test_pairs=8", "--nfe=4,6", "--devices=1")

    def test_compares_every_solver_and_files_of_distilled_ones(self, tmp_path):
        path = tmp_path / "bns_4.json"
        interchange.save(path, solvers.ralston(4))
        done = experiment(
            "compare", tmp_path / "run", *self.FLAGS, f"--solver_files={path}"
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        with open(tmp_path / "run" / "table.csv") as file:
            psnr = {(r["solver"], r["nfe"]): r["psnr_db"] for r in csv.DictReader(file)}
        odd = {"edm_heun", "heun_euler"}
        assert {name for name, _ in psnr} >= {*solvers.CATALOGUE, "bns"} - odd
        # A file, and the solver that it holds; two names of one method on cond-OT.
        assert psnr["bns", "4"] == psnr["ralston", "4"]
        assert psnr["ddim", "6"] == psnr["euler", "6"]
        assert ("rk4", "6") not in psnr
        for value in psnr.values():
            assert value in done.stdout
        assert (tmp_path / "run" / "psnr_vs_nfe.png").read_bytes()[1:4] == b"PNG"

    def test_named_solvers_alone(self, tmp_path):
        names = "--solvers=midpoint,dpm_solver_pp_2m@log_snr"
        done = experiment("compare", tmp_path, *self.FLAGS, names)
        assert done.returncode == 0, done.stderr
        with open(tmp_path / "table.csv") as file:
            found = {row["solver"] for row in csv.DictReader(file)}
        assert found == {"midpoint", "dpm_solver_pp_2m@log_snr"}

    def test_list_has_a_line_for_each(self, tmp_path):
        done = experiment("compare", tmp_path, "--list")
        assert done.returncode == 0, done.stderr
        listed = [line.split()[0] for line in done.stdout.splitlines()[2:]]
        assert listed == list(solvers.CATALOGUE)

    def test_nothing_to_compare_is_an_error(self, tmp_path):
        refused = experiment("compare", tmp_path / "run", "--solvers=rk4", "--nfe=6")
        assert refused.returncode == 1
        assert "no solver of ['rk4'] exists at" in refused.stderr
        assert not (tmp_path / "run").exists()


class TestMixture:
    """The closed form against the same posterior, computed one centre at a time."""

    @pytest.mark.parametrize("name", ["cond_ot", "vp"])
    @pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
    def test_velocity_is_that_of_the_posterior(self, name, t):
        rng = np.random.default_rng(0)
        scheduler = ALL_SCHEDULERS[name]
        centres, labels = rng.normal(size=(7, 2, 3)), np.arange(7) % 3
        exact = Mixture.around(centres, labels, 0.3, scheduler)
        x = rng.normal(size=(4, 2, 3))
        label = np.array([0, 1, 2, 0])
        alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
        std = np.sqrt((alpha * 0.3) ** 2 + sigma**2)
        for allowed, got in (
            (label[:, None] == labels, exact.conditional(t, x, label)),
            (np.ones((4, 7), bool), exact.unconditional(t, x, label)),
        ):
            expected = np.zeros_like(x)
            for i in range(4):
                weights = [
                    allowed[i, k] * scipy.stats.norm.pdf(x[i], alpha * c, std).prod()
                    for k, c in enumerate(centres)
                ]
                for weight, centre in zip(weights, centres, strict=True):
                    field = Gaussian(scheduler, centre, 0.3).velocity(t, x[i])
                    expected[i] += weight / np.sum(weights) * field
            assert_close(got, expected, 1e-12)


def test_damaged_weights_are_named(tmp_path):
    shipped = ROOT / "experiments" / "models" / "weights" / "digits.safetensors"
    data = bytearray(shipped.read_bytes())
    data[-1000] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(data)
    refused = digits(tmp_path / "run", f"--weights={damaged}")
    assert refused.returncode == 1
    assert f"{damaged} is damaged" in refused.stderr


def test_shipped_weights_are_small_and_enough():
    path = ROOT / "experiments" / "models" / "weights" / "digits.safetensors"
    assert path.stat().st_size <= 2 * 2**20
    params, metadata = weights.load(path)
    config = UNetConfig.from_dict(metadata["config"])
    weights.check(params, UNet(config).shapes(), path)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == metadata["figures"]["weights"] >= 300_000


@pytest.mark.parametrize("network", first_of([OneWeight, UNet], OneWeight))
def test_pretraining_writes_weights_and_its_state(tmp_path, monkeypatch, network):
    monkeypatch.setattr(models, "UNetConfig", lambda: TINY)
    monkeypatch.setattr(pretrain, "UNet", network)
    done = digits(
        tmp_path, "--stage=pretrain", "--pretrain_iterations=2", "--devices=1"
    )
    assert done.returncode == 0, done.stderr
    _, metadata = weights.load(tmp_path / "weights.safetensors")
    assert metadata["figures"]["iterations"] == 2
    assert (tmp_path / "checkpoints" / "pretrain").is_dir()


class Conditional(nnx.Module):
    """A small network of samples, a time for each, and labels."""

    def __init__(self, weights):
        self.weights = nnx.Param(jax.numpy.asarray(weights))

    def __call__(self, x, t, label):
        bend = 1.0 + label[:, None] + jax.numpy.sin(t.astype(x.dtype))[:, None]
        return jax.numpy.tanh(x @ self.weights[...]) * bend


def test_readme_example_runs(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    example = re.search(r"<!-- example -->\n```python\n(.*?)```", text, re.S)[1]
    # The same lines over a small network, with fewer steps.
    few = "nfe=2, optimizer=bns_jax.distill.adam(1e-2).replace(iterations=2))"
    for there, here in (
        ("nfe=[4, 8])", few),
        ("bns_8.json", "bns_2.json"),
        ("params[8]", "params[2]"),
        ("520, 256)", "52, 26)"),
    ):
        assert there in example
        example = example.replace(there, here)
    rng = np.random.default_rng(0)
    scope = {
        "net": Conditional(rng.normal(size=(3, 3))),
        "noise": rng.normal(size=(80, 3)),
        "labels": rng.normal(size=80),
    }
    monkeypatch.chdir(tmp_path)
    exec(example, scope)
    assert scope["images"].shape == (80, 3)
    assert (tmp_path / "bns_2.json").exists()
