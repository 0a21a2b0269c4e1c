"""Figure 3, read off the numbers, against the literature and against closed forms."""

import csv
import functools
import pathlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from bns_jax import grids, interchange, ns, schedulers, solvers
from bns_jax.ns import NSParams
from bns_jax.scale_time import between, fold, under
from experiments.taxonomy import agreement, classify, specimens
from tests import programs
from tests.fields import Gaussian
from tests.laws import ALL_SCHEDULERS, random_params, run

ROOT = pathlib.Path(__file__).parent.parent
VP = schedulers.vp()
START, END = 0.1, 0.9
NFE = 12

RUNGE_KUTTA = {"euler", "midpoint", "heun", "heun_euler", "ralston", "rk3", "rk4"}
MULTISTEP = {"ab2", "ab3", "ab4", "ab5"}
SINGLESTEP = {"ddim", "dpm_solver_2s", "dpm_solver_3s", "dpm_solver_pp_2s"}
EDM = {"edm_euler", "edm_heun"}
# The points that a step of the method rests on: those a multistep method carries.
POINTS = {
    "ab2": 2,
    "ab3": 3,
    "ab4": 4,
    "ab5": 5,
    "dpm_solver_2m": 2,
    "dpm_solver_3m": 3,
    "dpm_solver_pp_2m": 2,
    "dpm_solver_pp_3m": 3,
    "deis_tab2": 2,
    "deis_tab3": 3,
    "deis_log_rho2": 2,
    "deis_log_rho3": 3,
    "ipndm2": 2,
    "ipndm3": 3,
    "ipndm4": 4,
    "pndm": 4,
    # UniPC carries the corrected sample beside the predicted one.
    "unipc1": 2,
    "unipc2": 3,
    "unipc3": 4,
    "unipc1_bh1": 2,
    "unipc2_bh1": 3,
    "unipc3_bh1": 4,
}

SOLVERS = sorted(solvers.CATALOGUE)
of_catalogue = functools.cache(specimens.of_catalogue)


def build(name, scheduler=VP):
    """A solver inside (0, 1), and the times of its iterates."""
    nfe = NFE + (name in ("edm_heun", "heun_euler"))
    options = solvers.CATALOGUE[name].full_order
    params = solvers.build(name, nfe, scheduler, grids.uniform(START, END), **options)
    return params, np.append(params.times[1:], END)


def by_hand(c, d, times):
    """x_{i+1} = c_i x_i + sum_k d_ik u_{i-k}, for weights of the newest first."""
    n = len(times)
    C, D = np.diag(c), np.zeros((n, n))
    for i, weights in enumerate(d):
        for k, weight in enumerate(weights):
            D[i, i - k] = weight
    return ns.from_updates(times, C, D)


class TestRegions:
    @pytest.mark.parametrize("name", SOLVERS)
    def test_each_solver_is_where_the_literature_has_it(self, name):
        if name in RUNGE_KUTTA:
            expected = "RK"
        elif name in MULTISTEP:
            expected = "Multistep"
        elif name in SINGLESTEP | EDM:
            expected = "Exponential RK"
        else:
            expected = "Exponential multistep"
        assert of_catalogue(name).region == expected

    @pytest.mark.parametrize("name", SOLVERS)
    def test_numbers_show_the_kind_of_the_catalogue(self, name):
        shown, kind = of_catalogue(name).shown, solvers.CATALOGUE[name].kind
        assert of_catalogue(name).agrees and shown.is_of(kind)
        assert shown.generic == (kind == "generic")
        assert shown.exponential == (kind != "generic")

    @pytest.mark.parametrize("name", sorted(EDM))
    def test_edm_is_scale_time_runge_kutta(self, name):
        shown = of_catalogue(name).shown
        assert shown.one_step and shown.scale_time and not shown.generic

    def test_generic_solvers_under_a_change_are_scale_time_alone(self):
        midpoint, ab2 = specimens.under_cosine()
        assert midpoint.region == "Scale-Time RK"
        assert ab2.region == "Scale-Time multistep"

    @pytest.mark.parametrize("seed", range(20))
    def test_any_member_is_in_none_but_the_outermost(self, seed):
        assert specimens.random_member(seed).region == "Non-Stationary"

    def test_a_consistent_member_of_full_memory_is_no_multistep_method(self, rng):
        b = np.tril(rng.uniform(size=(NFE, NFE)))
        times = np.linspace(0.0, 1.0, NFE + 1)
        b *= (times[1:] / b.sum(axis=1))[:, None]
        shown = classify.show(NSParams(times[:-1], np.ones(NFE), b), VP)
        assert shown.generic and shown.memory == NFE // 2 + 1
        assert classify.region(shown) == "Non-Stationary"

    def test_on_the_cond_ot_path_ddim_is_euler(self):
        cond_ot = schedulers.cond_ot()
        shown = classify.show(solvers.ddim(NFE, cond_ot), cond_ot)
        assert classify.region(shown) == "RK"

    def test_a_solver_that_contradicts_the_catalogue_is_told(self):
        euler = of_catalogue("euler")._replace(kind="exponential")
        assert not euler.agrees


class TestByHand:
    times = np.linspace(START, END, NFE + 1)
    h = (END - START) / NFE

    def test_euler(self):
        params = by_hand(np.ones(NFE), [[self.h]] * NFE, self.times[:-1])
        shown = classify.show(params, VP, END)
        assert classify.region(shown) == "RK" and shown.stages == 1
        assert classify.is_steady(params, classify.clocks(VP)["time"], END)

    def test_ab2(self):
        d = [[self.h], *[[1.5 * self.h, -0.5 * self.h]] * (NFE - 1)]
        params = by_hand(np.ones(NFE), d, self.times[:-1])
        shown = classify.show(params, VP, END)
        assert classify.region(shown) == "Multistep" and shown.memory == 2
        assert classify.is_steady(params, classify.clocks(VP)["time"], END)

    def test_ddim(self):
        """x' / alpha' = x / alpha + (sigma' / alpha' - sigma / alpha) noise."""
        t, t_next = self.times[:-1], self.times[1:]
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        # u = alpha' m + sigma' e with m = (x - sigma e) / alpha, solved for e.
        slope = VP.d_alpha(t) / alpha
        per_e = VP.d_sigma(t) - slope * sigma
        ratio = VP.alpha(t_next) / alpha
        weight = VP.sigma(t_next) - ratio * sigma
        c, d = ratio - weight * slope / per_e, weight / per_e
        shown = classify.show(by_hand(c, d[:, None], t), VP, END)
        assert classify.region(shown) == "Exponential RK"
        assert not shown.generic


class TestStraight:
    """Runs on fields with closed-form flows say the same as the coefficients."""

    @pytest.mark.parametrize("scheduler", ["vp", "cosine", "alphas_cumprod"])
    @pytest.mark.parametrize("name", SOLVERS)
    def test_exponential_solvers_hit_a_single_data_point(self, name, scheduler, rng):
        path = ALL_SCHEDULERS[scheduler]
        params, times = build(name, path)
        point, x0 = Gaussian(path, std=0.0), rng.normal(size=3)
        flow = np.stack([point.flow(START, t, x0) for t in times])
        # EDM asks for the times of VE, which come back to the model's by rounding.
        exact = np.allclose(run(params, point.velocity, x0), flow, rtol=0, atol=1e-10)
        assert exact == classify.show(params, path, END).exponential

    @pytest.mark.parametrize("name", SOLVERS)
    def test_generic_solvers_follow_a_constant_velocity(self, name, rng):
        params, times = build(name)
        x0, u = rng.normal(size=(2, 3))
        flow = x0 + (times[:, None] - START) * u
        exact = np.allclose(run(params, lambda *_: u, x0), flow, rtol=0, atol=1e-12)
        assert exact == classify.show(params, VP, END).generic

    def test_solvers_that_begin_at_pure_noise_are_told_too(self):
        path = schedulers.cosine()
        assert classify.show(solvers.dpm_solver_pp(NFE, path), path).exponential


class TestCarried:
    @pytest.mark.parametrize("name", sorted(POINTS))
    def test_multistep_methods_carry_their_points(self, name):
        shown = of_catalogue(name).shown
        assert shown.multistep and shown.memory == POINTS[name]

    @pytest.mark.parametrize("name", sorted(RUNGE_KUTTA | SINGLESTEP | EDM))
    def test_one_step_methods_begin_each_step_afresh(self, name):
        stages = solvers.CATALOGUE[name].stages
        lengths = classify.steps(build(name)[0])
        assert of_catalogue(name).shown.one_step and max(lengths) == stages
        full = [length for length in lengths if length == stages]
        assert lengths[: len(full)] == full and len(full) >= 3

    def test_any_member_carries_as_much_as_there_is(self, rng):
        carried = classify.carried(random_params(rng, NFE))
        assert carried == [min(k + 1, NFE + 1 - k) for k in range(1, NFE)]

    @hypothesis.given(
        st.sampled_from([n for n in SOLVERS if n not in EDM]),
        st.sampled_from(["cosine", "ve", "shifted"]),
    )
    @hypothesis.settings(max_examples=30, deadline=None)
    def test_no_change_of_scheduler_changes_it(self, name, target):
        change = between(VP, ALL_SCHEDULERS[target])
        params, _ = build(name, ALL_SCHEDULERS[target])
        assert classify.carried(fold(params, change)) == classify.carried(params)

    def test_one_evaluation_is_one_step(self):
        assert classify.region(classify.show(solvers.euler(1), VP)) == "RK"


class TestSteady:
    @pytest.mark.parametrize("name", SOLVERS)
    def test_clocks_are_those_of_the_literature(self, name):
        if name in RUNGE_KUTTA | MULTISTEP:
            expected = ("time",)
        elif name.startswith("deis_tab"):
            expected = ()
        elif name in EDM or name.startswith(("ddim", "ipndm", "pndm")):
            expected = ("sigma/alpha", "log-SNR")
        else:
            expected = ("log-SNR",)
        assert of_catalogue(name).steady == expected

    def test_steps_of_other_lengths_are_not_the_same(self):
        times = np.linspace(START**0.5, END**0.5, NFE + 1) ** 2
        clock = classify.clocks(VP)["time"]
        assert not classify.is_steady(solvers.euler(NFE, grid=times), clock, END)

    @pytest.mark.parametrize("label", ["sigma/alpha", "log-SNR"])
    def test_clocks_are_consistent(self, label):
        (r, _, d_r, _), inverse = classify.clocks(VP)[label]
        t, step = np.linspace(START, END, 7), 1e-6
        np.testing.assert_allclose(inverse(r(t)), t, rtol=1e-12)
        slope = (r(t + step) - r(t - step)) / (2 * step)
        np.testing.assert_allclose(d_r(t), slope, rtol=1e-6)

    @pytest.mark.parametrize(
        ("name", "order"),
        [("ddim", 1), ("edm_euler", 1), ("ipndm2", 2), ("ipndm3", 3), ("ipndm4", 4)],
    )
    def test_steady_in_noise_to_signal_is_classical_under_ve(self, name, order):
        """In equal steps of sigma / alpha they are Adams-Bashforth under VE."""
        ve = schedulers.ve(float(1.0 / VP.snr(START)))
        change = between(VP, ve)
        end = float(ve.snr_inverse(VP.snr(END)))
        r = np.linspace(0.0, end, NFE + 1)
        classical = solvers.AdamsBashforth(order).algorithm(NFE, grid=r)
        expected = ns.from_solver(under(classical, change, 0.0, end), NFE)
        got = solvers.build(name, NFE, VP, change.t(r))
        for ours, theirs in zip(got, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


class TestAgreement:
    @pytest.mark.parametrize("path", ALL_SCHEDULERS.values(), ids=list(ALL_SCHEDULERS))
    def test_a_mixture_of_one_is_a_gaussian(self, path, monkeypatch, rng):
        monkeypatch.setattr(agreement, "_MEANS", np.full((1, 4), 0.4))
        one, x = Gaussian(path, 0.4, agreement._STD), rng.normal(size=(5, 4))
        for t in (0.0, 0.3, 0.9):
            got = agreement.MixtureField(path).velocity(t, x)
            np.testing.assert_allclose(got, one.velocity(t, x), rtol=1e-10)

    def test_a_mixture_takes_noise_to_its_means(self, rng):
        path = schedulers.cond_ot()
        x0 = rng.normal(size=(64, 4))
        x1 = solvers.algorithm("rk4", 400, path)(
            agreement.MixtureField(path).velocity, x0
        )
        apart = np.linalg.norm(x1[:, None] - agreement._MEANS[None], axis=-1)
        assert np.all(np.min(apart, axis=1) < 5 * agreement._STD)

    def test_it_sees_a_difference(self, monkeypatch):
        path, x0 = schedulers.cond_ot(), np.ones((2, 4))
        field = agreement.MixtureField(path)
        assert agreement.difference("ab2", 3, field, x0) < 1e-14
        true = agreement.bns_jax.sample
        monkeypatch.setattr(
            agreement.bns_jax, "sample", lambda *args: true(*args) * (1.0 + 1e-9)
        )
        assert agreement.difference("ab2", 3, field, x0) > 1e-10

    def test_what_does_not_exist_is_left_out(self):
        assert agreement.difference("rk4", 6, agreement.MixtureField(VP), None) is None
        with pytest.raises(ValueError, match="none of the solvers exists"):
            agreement.largest([])

    def test_no_number_counts_as_the_largest(self):
        found = [
            agreement.Difference("vp", "ddim", nfe, relative)
            for nfe, relative in [(4, 1e-3), (6, np.nan), (8, 1e-16)]
        ]
        assert agreement.largest(found).nfe == 6


class TestCommand:
    @pytest.mark.exhaustive
    def test_prints_writes_and_draws(self, tmp_path, rng):
        interchange.save(tmp_path / "mine.json", random_params(rng, 8))
        done = programs.run(
            "taxonomy",
            "--nfe=3,4",
            "--solvers=euler,heun,dpm_solver_pp_2m,edm_heun",
            f"--solver_files={tmp_path}/mine.json",
            f"--workdir={tmp_path}/run",
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        with open(tmp_path / "run" / "agreement.csv") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(agreement.SCHEDULERS) * (2 + 1 + 2 + 1)
        differences = [float(row["relative"]) for row in rows]
        assert max(differences) < 1e-12
        assert f"largest of all: {max(differences):.1e}" in done.stdout
        with open(tmp_path / "run" / "taxonomy.csv") as file:
            placed = {row["solver"]: row["region"] for row in csv.DictReader(file)}
        assert placed["heun"] == "RK" and placed["mine"] == "Non-Stationary"
        assert (tmp_path / "run" / "taxonomy.png").read_bytes()[1:4] == b"PNG"

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--nfe=4,x"], "must be integers"),
            (["--solvers=eulr"], "no solver is called 'eulr'; the nearest are euler"),
            (["--solver_files=missing.json"], "no solver file at missing.json"),
            (["--solver_files=x.json", "--scheduler=ot"], "no scheduler is called"),
            (["--solvers=rk4", "--nfe=6"], "none of the solvers exists"),
        ],
    )
    def test_bad_flags_are_named_before_anything_is_written(
        self, tmp_path, flags, message
    ):
        shared = (f"--workdir={tmp_path}/run", "--solvers=euler")
        refused = programs.run("taxonomy", *shared, *flags)
        assert refused.returncode == 1
        assert message in refused.stderr
        assert not (tmp_path / "run").exists()

    def test_fails_where_two_runs_differ(self, tmp_path, monkeypatch):
        monkeypatch.setattr(agreement, "difference", lambda *_: 1e-11)
        failed = programs.run("taxonomy", "--solvers=euler", f"--workdir={tmp_path}")
        assert failed.returncode == 1
        assert "two runs of one solver differ by 1.0e-11" in failed.stderr
