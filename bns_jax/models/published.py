"""The published checkpoints: architecture, schedule and prediction of each, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from bns_jax import schedulers
from bns_jax.models.adm import ADM, ADMConfig
from bns_jax.models.dit import DiT, DiTConfig
from bns_jax.models.edm import EDMConfig, EDMDenoiser
from bns_jax.models.network import Network
from bns_jax.schedulers import Scheduler

NetworkConfig = ADMConfig | EDMConfig | DiTConfig

_STEPS = 1000
_LEAST_LOG_SNR = -5.1


@dataclasses.dataclass(frozen=True)
class Published:
    """A checkpoint that somebody published.

    Attributes:
      file: what the file is called where it is published, or what it holds.
      config: its architecture.
      schedule: that it was trained on: "linear" or "cosine" in 1,000 steps, "edm" for
        a denoiser, "flow" for the straight path from noise to data.
      parameters: how many numbers the network has.
    """

    file: str
    config: NetworkConfig
    schedule: str
    parameters: int

    @property
    def scheduler(self) -> Scheduler:
        """The path to sample on."""
        return _SCHEDULERS[self.schedule]()

    @property
    def prediction(self) -> str:
        """What the network's output is: "epsilon", "denoiser" or "velocity"."""
        return {"edm": "denoiser", "flow": "velocity"}.get(self.schedule, "epsilon")

    def network(self, dtype: Any, remat: bool) -> Network:
        """The network; see `Network` for the options.

        Args:
          dtype: of its large products, float32 or bfloat16.
          remat: whether the backward pass recomputes each block.

        Returns:
          The network, without weights.
        """
        return _NETWORKS[type(self.config)](self.config, dtype, remat)

    def changed(self, changes: Mapping[str, Any]) -> Published:
        """A relative with another architecture.

        Args:
          changes: entries of the configuration, as JSON gives them.

        Returns:
          The same with that architecture; `parameters` stay those of the published one.

        Raises:
          ValueError: if an entry is unknown, or the architecture impossible.
        """
        names = [field.name for field in dataclasses.fields(self.config)]
        unknown = sorted(set(changes) - set(names))
        if unknown:
            raise ValueError(f"the architecture has the entries {names}, got {unknown}")
        lists = {k: tuple(v) for k, v in changes.items() if isinstance(v, list)}
        config = dataclasses.replace(self.config, **{**changes, **lists})
        return dataclasses.replace(self, config=config)


_NETWORKS: dict[type, type[Network]] = {
    ADMConfig: ADM,
    EDMConfig: EDMDenoiser,
    DiTConfig: DiT,
}


def linear() -> Scheduler:
    """Betas from 1e-4 to 0.02 in 1,000 steps (DDPM).

    Returns:
      The scheduler (Ho et al., 2020).
    """
    return schedulers.from_alphas_cumprod(
        np.cumprod(1.0 - np.linspace(1e-4, 0.02, _STEPS))
    )


def cosine() -> Scheduler:
    """The cosine schedule of Nichol and Dhariwal (2021), 1,000 steps, its end cut off.

    In the noisiest steps alpha falls to 5e-5: the data that a predicted noise implies
    is then the network's error, 20,000 times over. Log-SNR starts at -5.1 instead,
    where the linear schedule starts too, and DPM-Solver with this one: 996 steps are
    left. `grids.timesteps` and `solvers.from_timesteps` lay steps of all 1,000 on it.

    Returns:
      The scheduler, without the noisiest steps.
    """
    ends = np.cos((np.arange(_STEPS + 1) / _STEPS + 0.008) / 1.008 * np.pi / 2) ** 2
    kept = np.cumprod(1.0 - np.minimum(1.0 - ends[1:] / ends[:-1], 0.999))
    log_snr = 0.5 * (np.log(kept) - np.log1p(-kept))
    return schedulers.from_alphas_cumprod(kept[log_snr >= _LEAST_LOG_SNR])


_SCHEDULERS = {
    "linear": linear,
    "cosine": cosine,
    "edm": schedulers.ve,
    "flow": schedulers.cond_ot,
}

_large = partial(ADMConfig, width=256, blocks=2, order="h3c")
_cifar10 = partial(EDMConfig, image_size=32, multipliers=(2, 2, 2))
_faces = partial(EDMConfig, image_size=64, multipliers=(1, 2, 2, 2))
_imagenet = EDMConfig(
    "dhariwal",
    image_size=64,
    num_classes=1000,
    width=192,
    multipliers=(1, 2, 3, 4),
    blocks=3,
    attention=(32, 16, 8),
    augment=0,
)

PUBLISHED: dict[str, Published] = {
    "adm64": Published("64x64_diffusion.pt", ADMConfig(), "cosine", 295_904_454),
    "adm128": Published(
        "128x128_diffusion.pt",
        _large(
            image_size=128, multipliers=(1, 1, 2, 3, 4), head_channels=None, heads=4
        ),
        "linear",
        421_529_606,
    ),
    "adm256": Published(
        "256x256_diffusion.pt",
        _large(image_size=256, multipliers=(1, 1, 2, 2, 4, 4)),
        "linear",
        553_838_086,
    ),
    "adm256_uncond": Published(
        "256x256_diffusion_uncond.pt",
        _large(image_size=256, multipliers=(1, 1, 2, 2, 4, 4), num_classes=0),
        "linear",
        552_814_086,
    ),
    "adm512": Published(
        "512x512_diffusion.pt",
        _large(image_size=512, multipliers=(0.5, 1, 1, 2, 2, 4, 4)),
        "linear",
        558_997_638,
    ),
    "edm_cifar10_uncond_vp": Published(
        "edm-cifar10-32x32-uncond-vp.pkl", _cifar10("ddpmpp"), "edm", 55_732_739
    ),
    "edm_cifar10_cond_vp": Published(
        "edm-cifar10-32x32-cond-vp.pkl",
        _cifar10("ddpmpp", num_classes=10),
        "edm",
        55_734_147,
    ),
    "edm_cifar10_uncond_ve": Published(
        "edm-cifar10-32x32-uncond-ve.pkl", _cifar10("ncsnpp"), "edm", 56_395_651
    ),
    "edm_cifar10_cond_ve": Published(
        "edm-cifar10-32x32-cond-ve.pkl",
        _cifar10("ncsnpp", num_classes=10),
        "edm",
        56_398_467,
    ),
    "edm_ffhq_vp": Published(
        "edm-ffhq-64x64-uncond-vp.pkl", _faces("ddpmpp"), "edm", 61_804_419
    ),
    "edm_ffhq_ve": Published(
        "edm-ffhq-64x64-uncond-ve.pkl", _faces("ncsnpp"), "edm", 62_758_915
    ),
    "edm_afhqv2_vp": Published(
        "edm-afhqv2-64x64-uncond-vp.pkl", _faces("ddpmpp"), "edm", 61_804_419
    ),
    "edm_afhqv2_ve": Published(
        "edm-afhqv2-64x64-uncond-ve.pkl", _faces("ncsnpp"), "edm", 62_758_915
    ),
    "edm_imagenet64": Published(
        "edm-imagenet-64x64-cond-adm.pkl", _imagenet, "edm", 295_899_267
    ),
    "dit_xl_2": Published("DiT-XL-2-256x256.pt", DiTConfig(), "linear", 675_129_632),
    "dit_xl_2_512": Published(
        "DiT-XL-2-512x512.pt", DiTConfig(image_size=64), "linear", 676_014_368
    ),
    "sit_xl_2": Published("SiT-XL-2-256.pt", DiTConfig(), "flow", 675_129_632),
}
"""By the names that experiments know them by."""


def look_up(name: str) -> Published:
    """A published checkpoint by name.

    Args:
      name: a key of `PUBLISHED`.

    Returns:
      The checkpoint.

    Raises:
      ValueError: naming those that there are.
    """
    if name not in PUBLISHED:
        raise ValueError(f"expected one of {list(PUBLISHED)}, got {name!r:.60}")
    return PUBLISHED[name]
