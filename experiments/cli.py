"""Flags that several experiments share, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

MODEL = flags.DEFINE_enum(
    "model",
    "digits",
    ("digits", "mixture"),
    "Model to sample from: a network trained on handwritten digits, or the exact flow "
    "of a mixture of Gaussians around them.",
)
WEIGHTS = flags.DEFINE_string(
    "weights",
    "",
    "Weights file. If empty: the workdir's own if there is one, else the shipped one.",
)
GUIDANCE = flags.DEFINE_float(
    "guidance", 0.2, "Guidance scale w; 0 is unguided.", lower_bound=0.0
)
NFE = flags.DEFINE_list("nfe", "4,6,8", "Numbers of evaluations.")
SOLVERS = flags.DEFINE_list(
    "solvers",
    "common",
    "Solvers to compare, such as ddim,dpm_solver_pp_2m@log_snr (after the @ a time "
    'grid); "common" stands for those that people use most, "all" for every one.',
)
TEST_PAIRS = flags.DEFINE_integer("test_pairs", 1024, "To report.", lower_bound=1)
RTOL = flags.DEFINE_float("rtol", 1e-5, "Of the ground truth.", lower_bound=0.0)
ATOL = flags.DEFINE_float("atol", 1e-5, "Of the ground truth.", lower_bound=0.0)
SEED = flags.DEFINE_integer("seed", 0, "Of noise, labels and batches.", lower_bound=0)


def parse_nfe(values: Sequence[str]) -> tuple[int, ...]:
    """The numbers of evaluations, sorted, each once."""
    return tuple(sorted({int(value) for value in values}))


@flags.validator(NFE.name, message="must be integers from 1 to 64, such as 4,6,8")
def _nfe_is_valid(values: list[str]) -> bool:
    try:
        return bool(values) and all(1 <= nfe <= 64 for nfe in parse_nfe(values))
    except ValueError:
        return False


@flags.multi_flags_validator(
    [RTOL.name, ATOL.name], message="--rtol and --atol must be positive"
)
def _tolerances_are_positive(values: dict[str, float]) -> bool:
    return all(value > 0 for value in values.values())


def serialize(holders: Sequence[flags.FlagHolder]) -> dict[str, str]:
    """Flags as a flag file writes them."""
    named = {holder.name: flags.FLAGS[holder.name] for holder in holders}
    return {name: flag.serialize().partition("=")[2] for name, flag in named.items()}
