"""What the main job, and what else runs on a model, can be asked for."""

from __future__ import annotations

import dataclasses

from experiments.run.config import Config, Hosts, check_nfe, option, text

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


@dataclasses.dataclass(frozen=True)
class ModelConfig(Config):
    """The model to sample from."""

    model: str = option(
        "digits",
        "Model to sample from: a network trained on handwritten digits, the exact flow "
        "of a mixture of Gaussians around them, or a published checkpoint, with "
        "--weights.",
        choices=("digits", "mixture", *CHECKPOINTS),
    )
    weights: str = option(
        "",
        "Weights file. That of the digits ships with the project, or --stage=pretrain "
        "writes it; a published checkpoint is read without running code of it.",
    )
    guidance: float = option(
        0.2,
        "Guidance scale w; 0 is unguided, and what a model without classes needs.",
        least=0.0,
    )


@dataclasses.dataclass(frozen=True)
class TruthConfig(Config):
    """The pairs that solvers are measured on, and how exact they are."""

    test_pairs: int = option(1024, "Pairs that results are measured on.", least=1)
    rtol: float = option(1e-5, "Relative tolerance of the ground truth.", positive=True)
    atol: float = option(1e-5, "Absolute tolerance of the ground truth.", positive=True)
    seed: int = option(0, "Seed of noise, labels and batches.", least=0)

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each split."""
        return {"test": self.test_pairs}


@dataclasses.dataclass(frozen=True)
class PairsConfig(TruthConfig):
    """The pairs of a search too."""

    train_pairs: int = option(520, "Pairs that solvers are fitted to.", least=1)
    validation_pairs: int = option(256, "Pairs that choose the best step.", least=1)

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each split."""
        return {
            "train": self.train_pairs,
            "validation": self.validation_pairs,
            "test": self.test_pairs,
        }


@dataclasses.dataclass(frozen=True)
class RunConfig(Hosts, ModelConfig, TruthConfig):
    """What runs on a model at some numbers of evaluations, in a folder of its own."""

    nfe: tuple[int, ...] = option((4, 6, 8), "Numbers of evaluations.", free=True)
    workdir: str = option(
        "", "Folder of the run; runs/MODEL, or the like, if left out.", shapes=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nfe(self)

    @property
    def is_small(self) -> bool:
        """Whether the network is: the published ones are not."""
        return self.model not in CHECKPOINTS

    def folder(self, kind: str = "") -> str:
        """The --workdir, or what it is if left out.

        Args:
          kind: of the run; the main job has none.
        """
        return self.workdir or f"runs/{kind and kind + '_'}{self.model}"

    def check_even_nfe(self) -> None:
        """For what needs the midpoint method.

        Raises:
          ValueError: if an NFE is odd.
        """
        if any(nfe % 2 for nfe in self.nfe):
            raise ValueError(
                "--nfe must be even, as the midpoint method takes two per step, got "
                f"{text(self.nfe)}"
            )


def solvers_option(default: str, **settings: bool) -> tuple[str, ...]:
    """The option --solvers, of what compares with known solvers."""
    what: tuple[str, ...] = option(
        (default,),
        "Solvers to compare, such as ddim,dpm_solver_pp_2m@log_snr (after the @ a time "
        'grid); "common" stands for those that people use most, "all" for every one.',
        free=True,
        **settings,
    )
    return what


@dataclasses.dataclass(frozen=True)
class JobConfig(RunConfig, PairsConfig):
    """The main job, whatever the model."""

    solvers: tuple[str, ...] = solvers_option("common")
    init: str = option(
        "greedy",
        "Where the search starts: at a solver by name; greedy: fitted row by row to "
        "the true trajectories; previous: the result for the next smaller NFE, "
        "extended, or greedy for the smallest; best: the common solver that validates "
        "best.",
    )
    optimizer: str = option(
        "gauss_newton",
        "What the search goes on by; adam is the paper's Algorithm 2.",
        choices=("gauss_newton", "adam"),
    )
    iterations: int = option(0, "Steps; 0 leaves them to the optimizer.", least=0)
    batch: int = option(0, "Pairs per step; 0 leaves that to the optimizer.", least=0)
    evaluate_every: int = option(
        0, "Steps between validations; 0 leaves them to the optimizer.", least=0
    )
    learning_rate: float = option(
        5e-4, "Learning rate of Adam at the start.", positive=True
    )
    schedule: str = option(
        "polynomial",
        "Decay of Adam's learning rate.",
        choices=("polynomial", "cosine"),
    )
    sigma_0: float = option(
        1.0,
        "Preconditioning: by how much the noise of the path is enlarged while the "
        "solver is fitted (eq. 14); 1 changes nothing.",
        positive=True,
    )
    chunk: int = option(
        0,
        "Pairs to solve at a time; fewer take less memory. 0 leaves it to the library.",
        least=0,
    )
    microbatch: int = option(
        0,
        "Pairs to differentiate at a time; divides the batch. 0 leaves it to the "
        "program: all of it, on a CPU 26 per device where that divides it.",
        least=0,
        shapes=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch > self.train_pairs:
            raise ValueError(
                f"--batch must not exceed --train_pairs, got {self.batch} and "
                f"{self.train_pairs}"
            )
