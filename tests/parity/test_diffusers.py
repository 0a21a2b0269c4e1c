"""Our solvers against diffusers' schedulers, on one field, grid and noise."""

import warnings

import numpy as np
import pytest

from bns_jax import grids, schedulers, solvers
from tests.laws import run
from tests.parity import mixture

torch = pytest.importorskip("torch", reason="parity needs pip install -e '.[parity]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip(
        "diffusers", reason="parity needs pip install -e '.[parity]'"
    )

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 1000
BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
OPTIONS = {"num_train_timesteps": STEPS, **BETAS, "lower_order_final": False}
FLOAT32 = 2e-6  # DPMSolverMultistepScheduler keeps the sample in float32
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}


@pytest.fixture(scope="module")
def path():
    betas = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    return schedulers.from_alphas_cumprod(np.cumprod(1.0 - betas.numpy()))


def theirs(scheduler, levels):
    """Runs a scheduler on float64 noise levels sigma / alpha, in place of its own."""
    scheduler.set_timesteps(len(levels) - 1)
    scheduler.sigmas = torch.tensor(levels)
    x = torch.tensor(mixture.X0)
    for level, t in zip(levels[:-1], scheduler.timesteps, strict=True):
        alpha = 1.0 / np.hypot(1.0, level)
        m = mixture.data(alpha, alpha * level, x.numpy())
        epsilon = (x.numpy() - alpha * m) / (alpha * level)
        x = scheduler.step(torch.tensor(epsilon), t, x).prev_sample
    return x.numpy()


def levels_of(path, steps, end):
    """Noise levels of steps 999 .. and the end that diffusers takes."""
    times = np.append(np.linspace(0.0, 0.9, steps), end)
    return times, 1.0 / path.snr(times)


def ours(name, path, times, **options):
    params = solvers.build(name, len(times) - 1, path, times, **options)
    return run(params, mixture.velocity(path), mixture.X0)[-1]


def compare(name, path, scheduler, end=1.0, tolerance=1e-10, steps=10):
    times, levels = levels_of(path, steps, end)
    if end == 1.0:
        levels[-1] = 0.0
    options = solvers.look_up(name).full_order
    difference = np.abs(theirs(scheduler, levels) - ours(name, path, times, **options))
    assert np.max(difference) < tolerance


@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_pp_multistep(path, order):
    scheduler = diffusers.DPMSolverMultistepScheduler(**OPTIONS, solver_order=order)
    name = f"dpm_solver_pp_{order}m" if order > 1 else "ddim"
    compare(name, path, scheduler, tolerance=FLOAT32)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_multistep(path, order):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **OPTIONS, **SIGMA_MIN, solver_order=order, algorithm_type="dpmsolver"
    )
    name = f"dpm_solver_{order}m" if order > 1 else "ddim"
    compare(name, path, scheduler, end=0.999, tolerance=FLOAT32)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(path, order, variant):
    scheduler = diffusers.UniPCMultistepScheduler(
        **OPTIONS, **SIGMA_MIN, solver_order=order, solver_type=variant
    )
    name = f"unipc{order}" + ("_bh1" if variant == "bh1" else "")
    compare(name, path, scheduler, end=0.999)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(path, order):
    scheduler = diffusers.DEISMultistepScheduler(**OPTIONS, solver_order=order)
    name = f"deis_log_rho{order}" if order > 1 else "ddim"
    compare(name, path, scheduler, end=0.999)


MULTISTEP = {
    "dpm_solver_pp_2m": (diffusers.DPMSolverMultistepScheduler, 2, {}),
    "dpm_solver_pp_3m": (diffusers.DPMSolverMultistepScheduler, 3, {}),
    "unipc2": (diffusers.UniPCMultistepScheduler, 2, {}),
    "unipc3": (diffusers.UniPCMultistepScheduler, 3, {}),
    "unipc3_bh1": (diffusers.UniPCMultistepScheduler, 3, {"solver_type": "bh1"}),
    "deis_log_rho3": (diffusers.DEISMultistepScheduler, 3, {}),
}
"""Whose defaults are compared: the class, the order, and its other options."""


def karras_levels(path, nfe, end):
    """Levels from the path's largest to 0.002, the last step leading there or to 0."""
    largest = 1.0 / float(path.snr(0.0))
    roots = np.linspace(largest ** (1 / 7), 0.002 ** (1 / 7), nfe + (end > 0))
    return roots**7 if end else np.append(roots**7, 0.0)


@pytest.fixture(scope="module")
def truth(path):
    """The flow from X0 to each end, by small steps in log-SNR."""

    def flow(end, steps=400):
        levels = np.geomspace(1.0 / float(path.snr(0.0)), end or 1e-4, steps + 1)
        times = path.snr_inverse(1.0 / levels).clip(0.0, 1.0)
        return ours("unipc3", path, times, lower_order_final=False)

    return {end: flow(end) for end in (0.0, 0.002)}


NOT_TO_0 = ("deis_log_rho3", "unipc3_bh1")
"""diffusers has no step to a level of 0 for these."""


@pytest.mark.parametrize("nfe", [4, 6, 8, 14, 15])
@pytest.mark.parametrize(
    ("name", "end"),
    [(n, e) for n in MULTISTEP for e in (0.0, 0.002) if e or n not in NOT_TO_0],
)
def test_few_steps_end_as_in_diffusers(path, truth, name, nfe, end):
    kind, order, options = MULTISTEP[name]
    if end and kind is not diffusers.DEISMultistepScheduler:
        options = {**SIGMA_MIN, **options}
    scheduler = kind(num_train_timesteps=STEPS, **BETAS, solver_order=order, **options)
    levels = karras_levels(path, nfe, end)
    with np.errstate(divide="ignore"):
        times = path.snr_inverse(1.0 / levels).clip(0.0, 1.0)
    got = ours(name, path, times)
    tolerance = FLOAT32 if "DPM" in kind.__name__ else 1e-10
    assert np.max(np.abs(theirs(scheduler, levels) - got)) < tolerance
    if name in ("dpm_solver_pp_3m", "unipc3") and nfe < 8:
        full = ours(name, path, times, lower_order_final=False)
        errors = [np.sqrt(np.mean((x - truth[end]) ** 2)) for x in (got, full)]
        assert errors[0] < errors[1]


def test_euler_at_final(path):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **OPTIONS, **SIGMA_MIN, solver_order=3, euler_at_final=True
    )
    times, levels = levels_of(path, 10, 0.999)
    options = {"lower_order_final": False, "euler_at_final": True}
    got = ours("dpm_solver_pp_3m", path, times, **options)
    assert np.max(np.abs(theirs(scheduler, levels) - got)) < FLOAT32
    full = ours("dpm_solver_pp_3m", path, times, lower_order_final=False)
    assert np.max(np.abs(full - got)) > 1e-4


@pytest.mark.parametrize("kind", ["data", "noise"])
def test_dpm_solver_singlestep_of_order_two(path, kind):
    name, algorithm = {
        "data": ("dpm_solver_pp_2s", "dpmsolver++"),
        "noise": ("dpm_solver_2s", "dpmsolver"),
    }[kind]
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        **{**OPTIONS, "lower_order_final": True},
        **SIGMA_MIN,
        solver_order=2,
        algorithm_type=algorithm,
    )
    outer = np.linspace(0.0, 0.9, 6)
    params = solvers.build(name, 10, path, outer)
    # Evaluations at the start and the middle of each of the five steps.
    levels = 1.0 / path.snr(np.append(params.times, outer[-1]))
    scheduler.set_timesteps(10)
    scheduler.order_list = [1, 2] * 5
    scheduler.set_timesteps = lambda n: None
    got = run(params, mixture.velocity(path), mixture.X0)[-1]
    assert np.max(np.abs(theirs(scheduler, levels) - got)) < 1e-10


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_ddim(path, final):
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=STEPS,
        **BETAS,
        set_alpha_to_one=final == "zero",
        clip_sample=False,
    )
    scheduler.alphas_cumprod = torch.tensor(
        path.alpha(1.0 - (np.arange(STEPS) + 1.0) / STEPS) ** 2
    )
    if final == "sigma_min":
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(10)
    x = torch.tensor(mixture.X0)
    for t in scheduler.timesteps:
        alpha = float(scheduler.alphas_cumprod[t]) ** 0.5
        sigma = (1.0 - alpha**2) ** 0.5
        m = mixture.data(alpha, sigma, x.numpy())
        epsilon = torch.tensor((x.numpy() - alpha * m) / sigma)
        x = scheduler.step(epsilon, t, x).prev_sample
    params = solvers.from_timesteps(
        "ddim", scheduler.timesteps.numpy(), path, STEPS, final=final
    )
    got = run(params, mixture.velocity(path), mixture.X0)[-1]
    assert np.max(np.abs(x.numpy() - got)) < 1e-10


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("name", ["karras", "exponential", "beta"])
def test_grids_of_levels(path, name, final):
    """Laid between the schedule's own ends; diffusers keeps them in float32."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=STEPS,
        **BETAS,
        final_sigmas_type=final,
        **{f"use_{name}_sigmas": True},
    )
    scheduler.set_timesteps(9)
    end = "zero" if final == "zero" else "repeat"
    times = getattr(grids, name)(path, final=end)(9)
    got = path.sigma(times) / path.alpha(times)
    np.testing.assert_allclose(got, scheduler.sigmas.numpy(), rtol=1e-4)
    assert times[0] < 1e-6


@pytest.mark.parametrize("steps", [4, 10, 30])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_grids_of_timesteps(spacing, steps):
    options = {**BETAS, "num_train_timesteps": STEPS, "timestep_spacing": spacing}
    offset = {"steps_offset": 1} if spacing == "leading" else {}
    for kind, skip in (
        (diffusers.DDIMScheduler, False),
        (diffusers.DPMSolverMultistepScheduler, True),
        (diffusers.UniPCMultistepScheduler, True),
        (diffusers.DEISMultistepScheduler, True),
    ):
        scheduler = kind(**options, **offset)
        scheduler.set_timesteps(steps)
        grid = grids.timesteps(
            spacing, STEPS, offset=len(offset), skip_last=skip and spacing != "trailing"
        )
        got = STEPS * (1.0 - grid(steps)) - 1
        expected = [*scheduler.timesteps.numpy(), -1]
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_unipc_corrects_at_a_repeated_last_level(path):
    scheduler = diffusers.UniPCMultistepScheduler(
        num_train_timesteps=STEPS, **BETAS, **SIGMA_MIN, solver_order=3
    )
    times = grids.karras(path, 0.01, final="repeat")(8)
    levels = 1.0 / path.snr(times)
    got = ours("unipc3", path, times)
    assert np.max(np.abs(theirs(scheduler, levels) - got)) < 1e-10


@pytest.mark.parametrize(
    "kind",
    [
        diffusers.DDIMScheduler,
        diffusers.DPMSolverMultistepScheduler,
        diffusers.UniPCMultistepScheduler,
        diffusers.EulerDiscreteScheduler,
    ],
)
def test_schedules_of_zero_terminal_snr(kind):
    """Their last alpha_bar is 0, or 2^-24; DDIM on v, from pure noise."""
    scheduler = kind(
        num_train_timesteps=STEPS,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    table = scheduler.alphas_cumprod.numpy().astype(np.float64)
    path = schedulers.from_alphas_cumprod(table)
    assert path.alpha(0.0) < 2.5e-4
    if kind is not diffusers.DDIMScheduler:
        return
    scheduler.register_to_config(clip_sample=False)
    scheduler.alphas_cumprod = torch.tensor(table)
    scheduler.set_timesteps(8)
    x = torch.tensor(mixture.X0)
    for t in scheduler.timesteps:
        alpha, sigma = table[t] ** 0.5, (1.0 - table[t]) ** 0.5
        m = mixture.data(alpha, sigma, x.numpy())
        v = (alpha * x.numpy() - m) / sigma
        x = scheduler.step(torch.tensor(v), t, x).prev_sample
    params = solvers.from_timesteps("ddim", scheduler.timesteps.numpy(), path)
    got = run(params, mixture.velocity(path), mixture.X0)[-1]
    assert np.max(np.abs(x.numpy() - got)) < 1e-6


@pytest.mark.parametrize("start", ["heun", "runge_kutta"])
def test_pndm(path, start):
    scheduler = diffusers.PNDMScheduler(
        num_train_timesteps=STEPS,
        **BETAS,
        skip_prk_steps=start == "heun",
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    # In float64, as the path has them.
    scheduler.alphas_cumprod = torch.tensor(
        path.alpha(1.0 - (np.arange(STEPS) + 1.0) / STEPS) ** 2
    )
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(10)
    x = torch.tensor(mixture.X0)
    for t in scheduler.timesteps:
        alpha = float(scheduler.alphas_cumprod[t]) ** 0.5
        sigma = (1.0 - alpha**2) ** 0.5
        m = mixture.data(alpha, sigma, x.numpy())
        x = scheduler.step(torch.tensor((x.numpy() - alpha * m) / sigma), t, x)
        x = x.prev_sample
    params = solvers.pndm(
        len(scheduler.timesteps), path, start=start, grid=grids.timesteps("trailing")
    )
    asked = np.array([path.timestep(t) for t in params.times])
    np.testing.assert_allclose(asked, scheduler.timesteps.numpy(), atol=1e-6)
    got = run(params, mixture.velocity(path), mixture.X0)[-1]
    assert np.max(np.abs(x.numpy() - got)) < 1e-10


def test_heun_with_an_euler_last_step():
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(6)
    path = schedulers.cond_ot()
    field, x = mixture.velocity(path), torch.tensor(mixture.X0)
    for t in scheduler.timesteps:
        u = torch.tensor(-field(1.0 - float(t) / 1000, x.numpy()))
        x = scheduler.step(u, t, x).prev_sample
    sigmas = np.unique(scheduler.sigmas.numpy().astype(np.float64))[::-1]
    params = solvers.heun_euler(11, grid=1.0 - sigmas)
    got = run(params, field, mixture.X0)[-1]
    assert np.max(np.abs(x.numpy() - got)) < 2 * FLOAT32


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_dynamic_shift(tokens):
    shift = grids.dynamic_shift(tokens)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=list(np.linspace(1.0, 1 / 7, 7)), mu=np.log(shift))
    sigmas = scheduler.sigmas.numpy().astype(np.float64)
    np.testing.assert_allclose(1.0 - grids.shifted(shift)(7), sigmas, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_match_euler(shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(10)
    path = schedulers.cond_ot()
    field = mixture.velocity(path)
    x = torch.tensor(mixture.X0)
    sigmas = scheduler.sigmas.numpy().astype(np.float64)
    for t, sigma in zip(scheduler.timesteps, sigmas[:-1], strict=True):
        # diffusers runs sigma from 1 to 0: its velocity is minus ours.
        u = torch.tensor(-field(1.0 - sigma, x.numpy()))
        x = scheduler.step(u, t, x).prev_sample
    for params in (
        solvers.build("euler", 10, path, 1.0 - sigmas),
        solvers.from_flow_sigmas("euler", sigmas, path),
        solvers.from_flow_timesteps("euler", scheduler.timesteps.numpy(), path),
    ):
        got = run(params, field, mixture.X0)[-1]
        assert np.max(np.abs(x.numpy() - got)) < FLOAT32
