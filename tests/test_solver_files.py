"""Laws of a run's solver files: whole, recognised, and in the end measured."""

import json
import os

import numpy as np
import pytest

from bns_jax import Problem, distill, interchange, schedulers, solvers
from experiments.job import solver_files
from experiments.report.table import Row
from experiments.run.workdir import Workdir

FACTS = {"model": "mine", "prediction": "epsilon"}
MODEL = Problem(
    lambda t, x: x,
    schedulers.vp(),
    facts=FACTS,
    name="mine",
    guidance=0.5,
    guided_channels=3,
)
OF = {"field": "mine", "field_weights": 64 * "0", "seed": 0}
ROW, OTHER = Row("bns", 2, 40.12345, 39.5, 40.75), Row("euler", 2, 30.0, 29.0, 31.0)


@pytest.fixture
def workdir(tmp_path):
    workdir = Workdir(tmp_path)
    rows = (distill.HistoryRow(0, 0, np.nan, 40.0, 0.0),)
    fitted = distill.Distilled(solvers.euler(2), rows, 7, 0, 40.0, OF)
    solver_files.write(MODEL, workdir, 2, "euler", fitted)
    return workdir


def test_a_finished_solver_says_its_problem_and_then_what_it_reaches(workdir):
    path = workdir.solver("bns_2")
    metadata = interchange.load_metadata(path)
    before = interchange.load_purpose(path)
    assert before == interchange.Purpose(
        schedulers.vp(),
        prediction="epsilon",
        guidance=0.5,
        guided_channels=3,
        nfe=2,
        data_range=2.0,
        identity={"model": "mine", "field": "mine", "field_weights": 64 * "0"},
    )
    solver_files.add_measured(MODEL, workdir, 24, ROW, OTHER)
    after = interchange.load_purpose(path)
    assert after.identity == before.identity
    assert after.measured == interchange.Measured(
        "test pairs, which took part in nothing else",
        pairs=24,
        psnr_db=40.123,
        interval_db=(39.5, 40.75),
        best_other="euler",
        best_other_psnr_db=30.0,
    )
    assert interchange.load_metadata(path) == metadata
    assert solver_files.find(workdir, 2, OF).forwards == 7


def test_what_is_measured_again_is_not_written_again(workdir):
    path = workdir.solver("bns_2")
    solver_files.add_measured(MODEL, workdir, 24, ROW, OTHER)
    before = os.stat(path).st_mtime_ns
    solver_files.add_measured(MODEL, workdir, 24, ROW, OTHER)
    assert os.stat(path).st_mtime_ns == before
    solver_files.add_measured(MODEL, workdir, 25, ROW, OTHER)
    assert interchange.load_purpose(path).measured.pairs == 25


def test_a_solver_that_blew_up_has_no_figures(workdir):
    blown = Row("bns", 2, np.nan, np.nan, np.nan)
    solver_files.add_measured(MODEL, workdir, 24, blown, OTHER._replace(psnr_db=np.inf))
    measured = interchange.load_purpose(workdir.solver("bns_2")).measured
    assert (measured.psnr_db, measured.interval_db) == (None, None)
    assert measured.best_other_psnr_db is None


def test_a_file_of_an_older_format_is_continued(workdir):
    """A run that an earlier version distilled, evaluated by this one."""
    path = workdir.solver("bns_2")
    record = json.loads(path.read_text()) | {"format": "bns_jax.solver/1"}
    record["sha256"] = (
        "148c2e80a0bdd5a40330a744bd69952f3e677bce2f7a0a95cd7dcfafeaefac66"
    )
    path.write_text(json.dumps(record))
    assert solver_files.find(workdir, 2, OF).forwards == 7
    solver_files.add_measured(MODEL, workdir, 24, ROW, OTHER)
    stated = interchange.load_purpose(path)
    assert (stated.prediction, stated.measured.pairs) == ("epsilon", 24)


def test_a_solver_that_is_exact_on_its_pairs_has_a_file(tmp_path):
    rows = (distill.HistoryRow(0, 0, np.nan, np.inf, 0.0),)
    fitted = distill.Distilled(solvers.euler(2), rows, 7, 0, np.inf, OF)
    solver_files.write(MODEL, Workdir(tmp_path), 2, "euler", fitted)
    metadata = interchange.load_metadata(tmp_path / "solvers" / "bns_2.json")
    assert metadata["validation_psnr_db"] is None
