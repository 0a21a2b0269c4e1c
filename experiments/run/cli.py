"""Flags that several experiments share, and what they stand for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:
    from jax.sharding import Mesh

CHECKPOINTS = (
    "adm64",
    "adm128",
    "adm256",
    "adm256_uncond",
    "adm512",
    "edm_cifar10_uncond_vp",
    "edm_cifar10_cond_vp",
    "edm_cifar10_uncond_ve",
    "edm_cifar10_cond_ve",
    "edm_ffhq_vp",
    "edm_ffhq_ve",
    "edm_afhqv2_vp",
    "edm_afhqv2_ve",
    "edm_imagenet64",
    "dit_xl_2",
    "dit_xl_2_512",
    "sit_xl_2",
)
"""The names of `bns_jax.models.published`, which --help is too quick to load."""

MODEL = flags.DEFINE_enum(
    "model",
    "digits",
    ("digits", "mixture", *CHECKPOINTS),
    "Model to sample from: a network trained on handwritten digits, the exact flow of "
    "a mixture of Gaussians around them, or a published checkpoint, with --weights.",
)
WEIGHTS = flags.DEFINE_string(
    "weights",
    "",
    "Weights file. That of the digits ships with the project, or --stage=pretrain "
    "writes it; a published checkpoint is read without running code of it.",
)
GUIDANCE = flags.DEFINE_float(
    "guidance",
    0.2,
    "Guidance scale w; 0 is unguided, and what a model without classes needs.",
    lower_bound=0.0,
)
NFE = flags.DEFINE_list("nfe", "4,6,8", "Numbers of evaluations.")
TEST_PAIRS = flags.DEFINE_integer(
    "test_pairs", 1024, "Pairs that results are measured on.", lower_bound=1
)
RTOL = flags.DEFINE_float(
    "rtol", 1e-5, "Relative tolerance of the ground truth.", lower_bound=0.0
)
ATOL = flags.DEFINE_float(
    "atol", 1e-5, "Absolute tolerance of the ground truth.", lower_bound=0.0
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of noise, labels and batches.", lower_bound=0
)


def define_solvers() -> flags.FlagHolder:
    """The flag --solvers, for the programs that compare with known solvers."""
    return flags.DEFINE_list(
        "solvers",
        "common",
        "Solvers to compare, such as ddim,dpm_solver_pp_2m@log_snr (after the @ a time "
        'grid); "common" stands for those that people use most, "all" for every one.',
    )


DEVICES = flags.DEFINE_integer(
    "devices", 0, "Devices to lay batches over; 0 takes all there are.", lower_bound=0
)
SHARD_WEIGHTS = flags.DEFINE_bool(
    "shard_weights", False, "Lay large weights over the devices too."
)
COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address",
    None,
    "host:port at which process 0 of several listens; not needed on a Cloud TPU.",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes of the run.", lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of the processes this is, from 0.", lower_bound=0
)
START_TIMEOUT = flags.DEFINE_integer(
    "start_timeout", 120, "Seconds to wait for the other processes.", lower_bound=1
)


def mesh() -> Mesh | None:
    """The devices of --devices; None for a single one.

    Raises:
      ValueError: if there are fewer, or some would be left out of several processes'.
    """
    import jax

    from bns_jax import parallel

    there, count = jax.devices(), DEVICES.value or jax.device_count()
    if count > len(there) or (jax.process_count() > 1 and count < len(there)):
        raise ValueError(
            f"--devices={count}: there are {len(there)}, in {jax.process_count()} "
            "processes, which must all take part"
        )
    return parallel.data_mesh(there[:count]) if count > 1 else None


class JsonObject(flags.ArgumentParser):
    """Takes a JSON object, over as many lines as you like, as text of one line."""

    syntactic_help = "a JSON object"

    def parse(self, argument: str) -> str:
        """The text; "" stands for an empty object."""
        try:
            parsed = json.loads(argument or "{}")
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise ValueError('must be a JSON object, such as {"width": 128}')
        return json.dumps(parsed) if argument.strip() else ""


def parse_nfe(values: Sequence[str]) -> tuple[int, ...]:
    """The numbers of evaluations, sorted, each once."""
    return tuple(sorted({int(value) for value in values}))


@flags.validator(NFE.name, message="must be integers from 1 to 64, such as 4,6,8")
def _nfe_is_valid(values: list[str]) -> bool:
    try:
        return bool(values) and all(1 <= nfe <= 64 for nfe in parse_nfe(values))
    except ValueError:
        return False


def refuse_odd_nfe() -> None:
    """For programs that need the midpoint method, which takes two per step."""
    flags.register_validator(
        NFE.name,
        lambda values: (
            not _nfe_is_valid(values) or not any(n % 2 for n in parse_nfe(values))
        ),
        message="must be even, as the midpoint method takes two per step",
    )


@flags.multi_flags_validator(
    [RTOL.name, ATOL.name], message="--rtol and --atol must be positive"
)
def _tolerances_are_positive(values: dict[str, float]) -> bool:
    return all(value > 0 for value in values.values())


def serialize(holders: Sequence[flags.FlagHolder]) -> dict[str, str]:
    """Flags as a flag file writes them."""
    return {holder.name: _text(flags.FLAGS[holder.name]) for holder in holders}


def serialize_all() -> dict[str, str]:
    """All flags of the program but those that its processes do not share."""
    program = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    texts = {flag.name: _text(flag) for flag in program}
    return {name: texts[name] for name in sorted(texts.keys() - {PROCESS_ID.name})}


def _text(flag: flags.Flag) -> str:
    # A flag file says --noflag for false, which has no value.
    return (
        str(flag.value).lower() if flag.boolean else flag.serialize().partition("=")[2]
    )
