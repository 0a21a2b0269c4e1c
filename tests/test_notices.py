"""Warnings are said of the line that called the library."""

import ast
import pathlib

import numpy as np
import pytest

import bns_jax
from bns_jax import distill, families, ground_truth, interchange, metrics, solvers
from bns_jax.interchange import Purpose
from bns_jax.pairs import Pairs
from tests.laws import first_of

X0 = np.linspace(-1.0, 1.0, 12).reshape(6, 2)
PAIRS = Pairs.of(X0, X0 / np.e)
OPTIMIZER = distill.gauss_newton().replace(iterations=1)


def decay(t, x):
    return -x


def load(folder):
    interchange.save(folder / "s.json", solvers.euler(2))
    interchange.load(folder / "s.json", expect=Purpose(prediction="v"))


WARN = {
    "pairs": lambda folder: ground_truth.pairs(
        bns_jax.Problem(decay, data=X0 + 9.0), X0
    ),
    "fit": lambda folder: distill.fit(
        families.bns(solvers.euler(1)), decay, PAIRS, PAIRS, optimizer=OPTIMIZER
    ),
    "find": lambda folder: bns_jax.find(decay, PAIRS, PAIRS, 1, optimizer=OPTIMIZER),
    "load": load,
    "statistics": lambda folder: metrics.statistics(X0[:2], lambda x: x),
}


@pytest.mark.parametrize("name", first_of(WARN, "fit", "load"))
def test_a_warning_names_the_line_of_its_user(name, tmp_path):
    with pytest.warns(UserWarning) as heard:
        WARN[name](tmp_path)
    assert {warning.filename for warning in heard} == {__file__}


def test_the_library_warns_in_no_other_way():
    home = pathlib.Path(bns_jax.__file__).parent
    warns = {
        path.name
        for path in home.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "warnings.warn"
    }
    assert warns == {"notices.py"}
