"""The line on a terminal: rewritten while the work runs, ended when it ends."""

import contextlib
import io

import numpy as np
import pytest

import bns_jax
from bns_jax import comparison, distill, families, ground_truth, pairs, solvers
from bns_jax.progress import shown
from tests.laws import first_of

X0 = np.linspace(-1.0, 1.0, 12).reshape(6, 2)
PAIRS = pairs.Pairs.of(X0, X0 / np.e)
VALIDATION = pairs.Pairs.of(X0 / 2, X0 / 2 / np.e)


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self):
        return True


def decay(t, x):
    return -x


class Full(Exception):
    """What ends the work in its middle."""


def after(calls, function):
    """The function, which fails after so many calls."""
    left = iter(range(calls))

    def call(*args, **keywords):
        if next(left, None) is None:
            raise Full
        return function(*args, **keywords)

    return call


def solve(monkeypatch):
    # The last of six samples; those before it come one at a time.
    add = ground_truth.Shards.add
    monkeypatch.setattr(ground_truth.Shards, "add", after(5, add))
    ground_truth.pairs(decay, X0, chunk=3)


def compare(monkeypatch):
    monkeypatch.setattr(comparison, "measure", after(1, comparison.measure))
    bns_jax.compare(decay, PAIRS, 2, names=["euler", "midpoint"])


def fit(report=None, rate=1e-3, **changes):
    every = {"iterations": 4, "evaluate_every": 1}
    optimizer = distill.adam(rate).replace(**every, **changes)
    family = families.bns(solvers.euler(1))
    distill.fit(family, decay, PAIRS, VALIDATION, optimizer=optimizer, report=report)


def stop(monkeypatch):
    fit(distill.Report(stop=after(1, lambda: False)))


WORKS = {
    "pairs": (solve, "pairs 3/6 samples"),
    "compare": (compare, "compare 1/2 solvers"),
    "distill": (stop, "distill 1/4 steps"),
}


@pytest.mark.parametrize("name", first_of(WORKS, "compare"))
def test_the_line_of_work_that_fails_is_ended(name, monkeypatch):
    work, last = WORKS[name]
    with pytest.raises(Full), contextlib.redirect_stderr(Terminal()) as terminal:
        work(monkeypatch)
    text = terminal.getvalue()
    assert text.rpartition("\r")[2].startswith(last)
    assert text.endswith("\x1b[K\n")
    assert text.count("\n") == 1


def test_the_line_of_a_search_that_gains_no_more_is_ended():
    with contextlib.redirect_stderr(Terminal()) as terminal:
        fit(lambda *told: None)
        assert terminal.getvalue() == ""
        fit(patience=1, rate=1.0)
    text = terminal.getvalue()
    assert "distill 4/4" not in text
    assert text.endswith("\x1b[K\n")
    assert text.count("\n") == 1


def test_a_line_that_would_wrap_is_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    with (
        contextlib.redirect_stderr(Terminal()) as terminal,
        shown(None, "pairs", "samples") as report,
    ):
        report(1, 2, "a note that is long")
        report(2, 2)
    expected = "\rpairs 1/2 samples  \x1b[K\rpairs 2/2 samples\x1b[K\n"
    assert terminal.getvalue() == expected


def test_nothing_is_shown_where_stderr_is_no_terminal(capsys):
    with shown(None, "pairs", "samples") as report:
        report(1, 2)
    assert capsys.readouterr().err == ""
