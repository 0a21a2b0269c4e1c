"""What pictures show, and what they call it."""

import dataclasses

import numpy as np
import pytest
from matplotlib import pyplot as plt

from bns_jax import Problem, metrics, solvers
from experiments.ablations import studies, study
from experiments.ablations.study import StudyResult
from experiments.report import curves, display, samples
from experiments.report.table import Row, table


@pytest.fixture
def drawn(monkeypatch):
    """The figures, in place of their files."""
    figures = []
    for module in (curves, samples, study):
        monkeypatch.setattr(module, "save", lambda figure, _: figures.append(figure))
    yield figures
    plt.close("all")


def rows(values):
    return [
        Row(name, nfe, db, db - 1.0, db + 1.0)
        for name, of_nfe in values.items()
        for nfe, db in of_nfe.items()
    ]


BEST = {f"best{i}": {4: 40.0 + i, 6: 50.0 + i} for i in range(30)}
KNOWN = {
    "euler": {4: 20.0, 6: 22.0},
    "ddim": {4: 20.0, 6: 22.0},
    "dpm_solver_pp_2m": {4: 21.0, 6: 24.0},
}
BNS = {"bns": {4: 45.5, 6: 55.5}}


def test_every_solver_has_a_name_of_its_own():
    named = {display.name(solver) for solver in solvers.ALL}
    assert len(named) == len(solvers.ALL)
    assert not [name for name in named if "_" in name or "@" in name]
    assert display.name("dpm_solver_pp_2m@log_snr") == (
        "DPM-Solver++ (2M), uniform log-SNR"
    )
    assert display.name("my_own_file") == "my_own_file"
    assert set(display.FAMILIAR) <= set(solvers.CATALOGUE)


def test_solvers_that_agree_share_a_label_the_known_ones_first():
    assert display.names(["ab2", "euler"]) == "Euler = Adams-Bashforth 2"
    assert display.names(["ab2", "ab3", "ddim"]) == "DDIM = Adams-Bashforth 2 = 1 more"


def test_the_known_baselines_are_named_whatever_they_reach(drawn):
    broken = {"broken": {4: np.nan, 6: np.nan}, "off": {4: -300.0, 6: -250.0}}
    curves.plot_psnr(rows(BEST | KNOWN | broken | BNS), "path", "title", data_range=4)
    (axes,) = drawn[0].axes
    shown = [text.get_text() for text in axes.get_legend().texts]
    assert shown[0] == "best29"
    assert {"Euler = DDIM", "DPM-Solver++ (2M)", "BNS (this library)"} <= set(shown)
    assert shown[-1] == "23 more solvers"
    assert len(shown) == 13
    assert axes.get_ylim()[0] > 10
    assert axes.get_ylabel() == "PSNR for data in [-2, 2], test pairs (dB)"


def test_a_single_nfe_makes_bars(drawn):
    values = BEST | KNOWN | BNS | {"broken": {4: np.nan, 6: 60.0}}
    curves.plot_psnr([row for row in rows(values) if row.nfe == 4], "path", "title")
    (axes,) = drawn[0].axes
    assert not axes.lines
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == 24
    assert {"Euler = DDIM", "DPM-Solver++ (2M)", "BNS (this library)"} <= set(names)
    assert axes.get_xlim()[0] == 0
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == sorted(widths, reverse=True)
    assert axes.get_xlabel().endswith("4 NFE\n(10 more solvers not shown)")


def test_bars_of_what_blew_up_have_no_length(drawn):
    off = {"euler": {4: -300.0}, "ddim": {4: np.nan}, "unipc2": {4: np.inf}}
    curves.plot_psnr(rows(off | {"ab2": {4: 20.0}}), "path", "title")
    (axes,) = drawn[0].axes
    assert sorted(bar.get_width() for bar in axes.patches) == [0, 0, 0, 20]
    assert axes.get_xlim()[0] == 0
    assert [text.get_text() for text in axes.texts] == [
        "inf",
        "20.00",
        "-300.00",
        "nan",
    ]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_errors_have_a_scale_of_colors(drawn, channels):
    truth = np.linspace(-3.0, 3.0, 2 * 4 * 4 * channels).reshape(2, 4, 4, channels)
    images = {"truth": truth, "BNS": truth + 0.1, "Euler": truth - 0.2}
    samples.plot_samples(images, "path", "title", "truth", data_range=6.0)
    *strips, bar = drawn[0].axes
    assert len(strips) == 5
    assert bar.get_ylabel() == "error" + " (rms over channels)" * (channels > 1)
    # An eighth of half the range; the frame around an image has no error.
    assert bar.get_ylim()[1] == pytest.approx(3.0 / 8)
    error = strips[4].images[0].get_array()
    expected = -0.2 if channels == 1 else 0.2
    np.testing.assert_allclose(np.squeeze(error)[1:5, 1:5], expected)
    assert np.all(np.squeeze(error)[0] == 0)
    # The range is what runs from black to white.
    shown = np.squeeze(strips[0].images[0].get_array())[1:5, 1:5]
    first = truth[0, ..., 0 if channels == 1 else slice(3)]
    np.testing.assert_allclose(shown, 0.5 + first / 6.0)


def results(settings, nfes):
    return [
        StudyResult(s, n, 20.0 + n + i, 40.0 + n + i, 39.0, 60.0, 0.1, 10, 1.0)
        for n in nfes
        for i, s in enumerate(settings)
    ]


def legend(axes):
    return {text.get_text() for text in axes.get_legend().texts}


def test_families_are_lines_over_nfe(drawn):
    families = ("BST, its own loss", "BST, PSNR loss", "BNS, PSNR loss")
    question = studies.STUDIES["figure11"]
    # BST starts from midpoint but for rounding.
    found = [
        result._replace(start_db=30.0 + 0.001 * index)
        for index, result in enumerate(results(families, (4, 6, 8)))
    ]
    study.plot(found, "path", "x", "title", question.by_nfe)
    (axes,) = drawn[0].axes
    assert legend(axes) == {*families, "the start of all"}
    assert axes.get_xlabel().startswith("NFE")
    np.testing.assert_array_equal(axes.get_xticks(), [4, 6, 8])


@pytest.mark.parametrize(
    ("settings", "nfes", "bars"),
    [
        (("0.5", "1", "5"), (4, 6), 0),
        (("0.5", "1", "5"), (4,), 3),
        (("euler", "best known"), (4, 6), 4),
    ],
)
def test_what_is_no_axis_of_numbers_makes_bars(drawn, settings, nfes, bars):
    study.plot(results(settings, nfes), "path", "what varies", "title")
    (axes,) = drawn[0].axes
    assert len(axes.patches) == bars
    assert legend(axes) == {"where it started", *(f"{nfe} NFE" for nfe in nfes)}
    assert axes.get_xlabel() == "what varies"
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == [display.name(setting) for setting in settings]


def test_the_table_says_of_what_range_its_psnr_is():
    assert table(rows(KNOWN)).startswith("PSNR for data in [-1, 1], dB\n\n")
    wide = table(rows(KNOWN), data_range=5.0)
    assert wide.startswith("PSNR for data in [-2.5, 2.5], dB\n\n")


def test_a_models_metric_has_its_range_and_is_one_object():
    model = Problem(lambda t, x: x)
    assert model.metric is metrics.psnr
    wide, again = (
        dataclasses.replace(model, data_range=20.0, guidance=w) for w in (0.0, 1.0)
    )
    assert wide.metric is again.metric
    x, target = np.zeros((1, 4)), np.ones((1, 4))
    # 10 log10(400 / 1)
    np.testing.assert_allclose(wide.metric(x, target), 26.0206, rtol=1e-6)
