"""A scheduler on a warped time."""

from __future__ import annotations

import dataclasses

from bns_jax import scalars
from bns_jax.schedulers.base import Scheduler, with_namespace
from bns_jax.schedulers.paths import CondOT
from bns_jax.typing import Array, Time


@dataclasses.dataclass(frozen=True)
class Shifted(Scheduler):
    """`base` at the warped time t / (t + shift (1 - t)).

    On the cond-OT path this divides the signal-to-noise ratio by `shift`: the
    resolution shift of flow models (Esser et al., 2024, section 5.3.2).
    """

    shift: float
    base: Scheduler = dataclasses.field(default_factory=CondOT)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift", scalars.positive("shift", self.shift))

    def alpha(self, t: Time) -> Array:
        """alpha_t of the base at the warped time.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t, of the shape of t.
        """
        return self.base.alpha(self._warp(t))

    def sigma(self, t: Time) -> Array:
        """sigma_t of the base at the warped time.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t, of the shape of t.
        """
        return self.base.sigma(self._warp(t))

    def d_alpha(self, t: Time) -> Array:
        """alpha_t' by the chain rule.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t', of the shape of t.
        """
        return self.base.d_alpha(self._warp(t)) * self._d_warp(t)

    def d_sigma(self, t: Time) -> Array:
        """sigma_t' by the chain rule.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t', of the shape of t.
        """
        return self.base.d_sigma(self._warp(t)) * self._d_warp(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """The inverse of the base, unwarped.

        Args:
          log_snr: log(alpha / sigma), of any shape.

        Returns:
          The time in [0, 1], of the shape of log_snr.
        """
        warped = self.base.log_snr_inverse(log_snr)
        return self.shift * warped / (1.0 + (self.shift - 1.0) * warped)

    def _warp(self, t: Time) -> Array:
        _, t = with_namespace(t)
        return t / (t + self.shift * (1.0 - t))

    def _d_warp(self, t: Time) -> Array:
        _, t = with_namespace(t)
        return self.shift / (t + self.shift * (1.0 - t)) ** 2
