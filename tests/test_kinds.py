"""Objects of another kind at any public function: what was expected, and what came."""

import functools
import pathlib
import re

import numpy as np
import pytest

import bns_jax
from bns_jax import (
    conventions,
    distill,
    families,
    grids,
    ground_truth,
    interchange,
    metrics,
    ns,
    pairs,
    scale_time,
    schedulers,
    solvers,
    velocity,
)

from . import problems

X0 = problems.noise(4)
EULER = solvers.euler(2)
COND_OT = schedulers.cond_ot()
FAMILY = families.bns(EULER)
PAIRS = pairs.Pairs.of(X0, X0)
VALIDATION = pairs.Pairs.of(X0 + 1, X0)
IMAGES = np.zeros((4, 8, 8, 3), np.uint8)
GAUSSIAN = metrics.Gaussian(np.zeros(3), np.eye(3))


class Other:
    """What is of no kind that is known here."""

    def __repr__(self):
        return "<other>"


OTHER = Other()


def field(t, x):
    return -x


def fit(**options):
    return distill.fit(FAMILY, field, PAIRS, VALIDATION, **options)


def compare(**options):
    return bns_jax.compare(field, PAIRS, 2, **{"names": ["euler"], **options})


OF_SCHEDULER = {
    "Problem": lambda s: bns_jax.Problem(field, s),
    "compare": lambda s: compare(scheduler=s),
    "conventions": lambda s: conventions.check(field, s, X0),
    "preconditioned": lambda s: families.preconditioned(FAMILY, s, 2.0),
    "between": lambda s: scale_time.between(s, COND_OT),
    "between, target": lambda s: scale_time.between(COND_OT, s),
    "precondition": lambda s: scale_time.precondition(s, 2.0),
    "shifted": lambda s: schedulers.shifted(2.0, s),
    "describe": schedulers.describe,
    "from_epsilon": lambda s: velocity.from_epsilon(field, s),
    "from_data": lambda s: velocity.from_data(field, s),
    "from_v": lambda s: velocity.from_v(field, s),
    "from_score": lambda s: velocity.from_score(field, s),
    "from_denoiser": lambda s: velocity.from_denoiser(field, s),
    "grids.log_snr": grids.log_snr,
    "grids.karras": grids.karras,
    "grids.exponential": grids.exponential,
    "grids.beta": grids.beta,
    "grids.timesteps": lambda s: grids.timesteps("trailing", scheduler=s),
    "from_sigmas": lambda s: solvers.from_sigmas("euler", [1.0, 0.5], s),
    "from_flow_sigmas": lambda s: solvers.from_flow_sigmas("euler", [1.0, 0.5], s),
    "from_flow_timesteps": lambda s: solvers.from_flow_timesteps("euler", [999], s),
    "from_timesteps": lambda s: solvers.from_timesteps("ddim", [999], s),
    **{
        f"build {name}": lambda s, name=name: solvers.build(name, 12, s)
        for name in solvers.CATALOGUE
    },
    "algorithm": lambda s: solvers.algorithm("ddim", 4, s),
}


@pytest.mark.parametrize("name", OF_SCHEDULER)
def test_what_is_no_scheduler_is_refused(name):
    for other in ("vp", schedulers.vp, 5):
        with pytest.raises(
            (ValueError, TypeError), match=r"expected a scheduler.*, got .*(vp|5)"
        ):
            OF_SCHEDULER[name](other)


CALLS = {
    "mesh of a problem": lambda o: bns_jax.Problem(field, mesh=o),
    "facts": lambda o: bns_jax.Problem(field, facts=o),
    "field of a problem": bns_jax.Problem,
    "field of sample": lambda o: bns_jax.sample(EULER, o, X0),
    "field of pairs": lambda o: ground_truth.pairs(o, X0),
    "field of guided": lambda o: velocity.guided(o, field, 0.5),
    "network": lambda o: velocity.from_epsilon(o, COND_OT),
    "solver of sample": lambda o: bns_jax.sample(o, field, X0),
    "solver of sample_path": lambda o: bns_jax.sample_path(o, field, X0),
    "solver of validate": ns.validate,
    "solver of bns": families.bns,
    "solver of evaluate": lambda o: distill.evaluate(o, field, PAIRS),
    "solver of fold": lambda o: scale_time.fold(o, scale_time.identity()),
    "solver of save": lambda o: interchange.save("solver.json", o),
    "change of fold": lambda o: scale_time.fold(EULER, o),
    "change of transform": lambda o: scale_time.transform(field, o),
    "algorithm of under": lambda o: scale_time.under(o, scale_time.identity()),
    "family": lambda o: distill.fit(o, field, PAIRS, PAIRS),
    "family, preconditioned": lambda o: families.preconditioned(o, COND_OT, 2.0),
    "optimizer": lambda o: fit(optimizer=o),
    "objective": lambda o: fit(objective=o),
    "metric": lambda o: fit(metric=o),
    "metric of compare": lambda o: compare(metric=o),
    "report": lambda o: fit(report=o),
    "report.stop": lambda o: distill.Report(stop=o),
    "report.validated": lambda o: distill.Report(validated=o),
    "checkpoint": lambda o: fit(checkpoint=o),
    "transformation": distill.with_optax,
    "training pairs": lambda o: distill.fit(FAMILY, field, o, PAIRS),
    "pairs of greedy": lambda o: distill.greedy(field, o, 2),
    "pairs of split": lambda o: pairs.split(o, 2),
    "pairs of first": lambda o: pairs.first(o, 2),
    "pairs of concatenate": pairs.concatenate,
    "names": lambda o: compare(names=o),
    "one name": lambda o: compare(names="euler"),
    "also": lambda o: compare(also=o),
    "also, a solver": lambda o: compare(also={"mine": o}),
    "name of a solver": lambda o: solvers.build(o, 4, COND_OT),
    "tableau": lambda o: solvers.runge_kutta(4, o),
    "features": lambda o: metrics.fid(IMAGES, GAUSSIAN, o),
    "reference": lambda o: metrics.fid(IMAGES, o, lambda x: x[:, 0, 0]),
    "data_range": lambda o: metrics.psnr(X0, X0, data_range=o),
    "resamples": lambda o: metrics.bootstrap_interval(np.ones(4), resamples=o),
    "file": interchange.load,
    "nfe": ns.num_params,
    "algorithm of from_solver": lambda o: bns_jax.from_solver(o, 2),
    "Gaussian": lambda o: metrics.frechet_distance(GAUSSIAN, o),
    "images": lambda o: metrics.image_statistics(o, lambda x: x[:, 0, 0]),
    "features of statistics": lambda o: metrics.image_statistics(IMAGES, o),
    "times of a grid": grids.from_times,
    "times to resample": grids.resampled,
    "a grid": lambda o: solvers.euler(2, grid=o),
    "alphas": schedulers.from_alphas_cumprod,
    "sigmas": lambda o: solvers.from_sigmas("euler", o, COND_OT),
}


@pytest.mark.parametrize("name", CALLS)
def test_another_kind_of_object_is_named_with_what_was_expected(name):
    came = r"got .*(other|Other|None|euler)"
    with pytest.raises((ValueError, TypeError), match=rf"(expected|must be) .*{came}"):
        CALLS[name](OTHER)


@pytest.mark.parametrize("values", ["a", None, [[1.0], [1.0, 0.5]], [1j, 0.5]])
@pytest.mark.parametrize(
    "read",
    [
        grids.from_times,
        grids.resampled,
        schedulers.from_alphas_cumprod,
        lambda values: solvers.from_sigmas("euler", values, COND_OT),
    ],
)
def test_what_is_no_row_of_numbers_is_named(read, values):
    with pytest.raises(ValueError, match="must be real numbers, got"):
        read(values)


class Large:
    """A network, which prints all of its weights."""

    def __repr__(self):
        return "<large " + "1.0, " * 10_000


OF_VALUE = {
    "guided": lambda o: velocity.guided(field, field, o),
    "count": lambda o: pairs.first(PAIRS, o),
    "finite": lambda o: schedulers.vp(beta_min=o),
    "options": lambda o: solvers.build("euler", 2, grid=o),
    "schedule": lambda o: distill.adam(1e-3, schedule=o),
    "names": lambda o: compare(also={o: EULER}),
    "save": lambda o: interchange.save(o, EULER),
    "solver": lambda o: bns_jax.sample(o, field, X0),
    "fit": lambda o: fit(optimizer=o),
}


@pytest.mark.parametrize("name", OF_VALUE)
def test_a_value_is_named_without_all_that_it_prints(name):
    with pytest.raises((ValueError, TypeError)) as error:
        OF_VALUE[name](Large())
    assert len(str(error.value)) < 300


def test_what_came_is_cut_wherever_it_is_printed():
    home = pathlib.Path(bns_jax.__file__).parent
    whole = re.compile(r"""got [^{}"']*\{[^{}]*!r\}""")
    files = (path for path in home.rglob("*.py") if whole.search(path.read_text()))
    assert not list(files)


OF_FIELD = {
    "sample": lambda vf: bns_jax.sample(EULER, vf, X0),
    "sample_path": lambda vf: bns_jax.sample_path(EULER, vf, X0),
    "sample_velocities": lambda vf: ns.sample_velocities(EULER, vf, X0),
    "check": lambda vf: conventions.check(vf, COND_OT, X0),
    "guided": lambda vf: velocity.guided(vf, field, 1.0),
    "guided, without": lambda vf: velocity.guided(field, vf, 1.0),
    "from_v": lambda vf: velocity.from_v(vf, COND_OT),
    "Problem": bns_jax.Problem,
}


@pytest.mark.parametrize("name", OF_FIELD)
def test_where_a_field_is_wanted_a_problem_says_where_it_is(name):
    with pytest.raises(ValueError, match=r"Problem; give its field, problem\.field"):
        OF_FIELD[name](bns_jax.Problem(field))


OF_SOLVER = {
    "sample": lambda p, folder: bns_jax.sample(p, field, X0),
    "sample_path": lambda p, folder: bns_jax.sample_path(p, field, X0),
    "validate": lambda p, folder: ns.validate(p),
    "bns": lambda p, folder: families.bns(p),
    "save": lambda p, folder: interchange.save(folder / "s.json", p),
    "evaluate": lambda p, folder: distill.evaluate(p, field, PAIRS),
    "compare": lambda p, folder: compare(also={"mine": p}),
    "compare, by NFE": lambda p, folder: compare(also={"mine": {2: p}}),
}


@pytest.mark.parametrize("name", OF_SOLVER)
def test_where_a_solver_is_wanted_a_distilled_one_says_where_it_is(name, tmp_path):
    distilled = distill.Distilled(EULER, (), 0, 0, 0.0)
    with pytest.raises(ValueError, match=r"got .*Dist.*; the solver is in its .params"):
        OF_SOLVER[name](distilled, tmp_path)


@pytest.mark.parametrize("name", ["ddim", "euler", "euler@karras"])
def test_own_solvers_do_not_take_a_name_of_the_catalogue(name):
    with pytest.raises(ValueError, match=f"names of one's own, got '{name}'"):
        compare(also={name: EULER})


def test_psnr_is_told_with_its_range():
    for metric, told in (
        (metrics.psnr, "psnr (data_range=2) on"),
        (functools.partial(metrics.psnr, data_range=1.0), "psnr (data_range=1) on"),
        (metrics.snr, "snr on"),
    ):
        assert told in str(compare(metric=metric))
