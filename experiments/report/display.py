"""What solvers and PSNR are called in tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence

BESPOKE = "bns"

_LONGEST = 36

FAMILIAR = ("euler", "ddim", "dpm_solver_pp_2m")
"""Those that everybody knows, and looks for in a picture."""

_NAMES = {
    BESPOKE: "BNS (this library)",
    "euler": "Euler",
    "midpoint": "Midpoint",
    "heun": "Heun",
    "heun_euler": "Heun, last step Euler",
    "ralston": "Ralston",
    "rk3": "Kutta (RK3)",
    "rk4": "RK4",
    "ab2": "Adams-Bashforth 2",
    "ab3": "Adams-Bashforth 3",
    "ab4": "Adams-Bashforth 4",
    "ab5": "Adams-Bashforth 5",
    "ddim": "DDIM",
    "dpm_solver_2s": "DPM-Solver-2",
    "dpm_solver_3s": "DPM-Solver-3",
    "dpm_solver_2m": "DPM-Solver (2M)",
    "dpm_solver_3m": "DPM-Solver (3M)",
    "dpm_solver_pp_2s": "DPM-Solver++ (2S)",
    "dpm_solver_pp_2m": "DPM-Solver++ (2M)",
    "dpm_solver_pp_3m": "DPM-Solver++ (3M)",
    "deis_tab2": "tAB-DEIS 2",
    "deis_tab3": "tAB-DEIS 3",
    "deis_log_rho2": "DEIS 2, log-rho",
    "deis_log_rho3": "DEIS 3, log-rho",
    "unipc1": "UniPC-1",
    "unipc2": "UniPC-2",
    "unipc3": "UniPC-3",
    "unipc1_bh1": "UniPC-1 (B1)",
    "unipc2_bh1": "UniPC-2 (B1)",
    "unipc3_bh1": "UniPC-3 (B1)",
    "ipndm2": "iPNDM 2",
    "ipndm3": "iPNDM 3",
    "ipndm4": "iPNDM 4",
    "pndm": "PNDM",
    "edm_euler": "EDM (Euler)",
    "edm_heun": "EDM (Heun)",
}

_GRIDS = {
    "uniform": "uniform times",
    "log_snr": "uniform log-SNR",
    "karras": "Karras levels",
    "exponential": "exponential levels",
    "beta": "beta quantiles",
}


def name(solver: str) -> str:
    """The name of a solver, or of a solver@grid, for people.

    One that is not of the catalogue, such as a file's, stays as it is.
    """
    base, _, grid = solver.partition("@")
    shown = _NAMES.get(base, base)
    return f"{shown}, {_GRIDS.get(grid, grid)}" if grid else shown


def names(solvers: Sequence[str]) -> str:
    """Solvers that agree, as the label of their common line: the known ones first."""
    ordered = sorted(solvers, key=lambda solver: solver not in (BESPOKE, *FAMILIAR))
    shown = list(map(name, ordered))
    most = 2 if sum(map(len, shown[:2])) <= _LONGEST else 1
    if len(shown) > most:
        shown[most:] = [f"{len(shown) - most} more"]
    return " = ".join(shown)


def psnr_of(data_range: float) -> str:
    """What PSNR it is: without the range of the data it means nothing.

    Args:
      data_range: from the least to the largest value, around 0.
    """
    half = data_range / 2
    return f"PSNR for data in [-{half:g}, {half:g}]"
