"""What a solver is for: its problem, and what it was measured to reach there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from bns_jax import scalars
from bns_jax.guidance import GuidedVelocity
from bns_jax.schedulers import Scheduler, describe
from bns_jax.typing import VelocityField

CONVENTION = "u = (1 + w) cond - w uncond"
"""Of the guidance scale w: 0 is unguided. Others call 1 + w the scale."""

PREDICTIONS = ("velocity", "epsilon", "data", "v", "score", "denoiser")
"""What a network may predict; the functions of `velocity` have these names."""

Scale: TypeAlias = float | tuple[float, float]
"""A guidance scale, or the lowest and the highest of a range."""

PLAIN = ("nfe", "scheduler", "prediction", "data_range", "identity")
_GUIDANCE = ("convention", "scale", "channels")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a solver was measured to reach.

    Attributes:
      on: what it was measured on, in words.
      pairs: how many there were.
      psnr_db: the mean of their PSNR, in dB; None if it is not finite.
      interval_db: the 95 % interval of that mean; None if there is none.
      best_other: the name of the best other solver of as many evaluations, if one was
        measured.
      best_other_psnr_db: what that reaches on the same pairs.
    """

    on: str
    pairs: int
    psnr_db: float | None
    interval_db: tuple[float, float] | None = None
    best_other: str | None = None
    best_other_psnr_db: float | None = None

    def __post_init__(self) -> None:
        for name in ("on", "best_other"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name == "on" or value is not None):
                raise ValueError(f"{name} must be text, got {value!r:.100}")
        _set(self, "pairs", scalars.count("pairs", self.pairs))
        for name in ("psnr_db", "best_other_psnr_db"):
            if (value := getattr(self, name)) is not None:
                _set(self, name, scalars.finite(name, value))
        if self.interval_db is not None:
            _set(self, "interval_db", _range("interval_db", self.interval_db))


@dataclasses.dataclass(frozen=True)
class Purpose:
    """What a solver is for. None, or an empty identity, is what is not stated.

    Attributes:
      scheduler: of the path; a scheduler becomes its description
        (`schedulers.describe`).
      prediction: what the network predicts, one of `PREDICTIONS`. The solver runs on
        the velocity that is made of it.
      guidance: the scale w of u = (1 + w) cond - w uncond, 0 for unguided; (low, high)
        for a solver of all scales between them.
      guided_channels: how many leading channels are guided; None for all of them.
      nfe: evaluations of the field.
      data_range: from the least to the largest value of the data, the peak of the PSNR;
        2 for data in [-1, 1].
      identity: what tells the field from others; see `bns_jax.identity`.
      measured: what the solver reaches.
    """

    scheduler: Scheduler | Mapping[str, Any] | None = None
    prediction: str | None = None
    guidance: Scale | None = None
    guided_channels: int | None = None
    nfe: int | None = None
    data_range: float | None = None
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    measured: Measured | None = None

    def __post_init__(self) -> None:
        if self.scheduler is not None:
            _set(self, "scheduler", _scheduler(self.scheduler))
        if self.prediction is not None and self.prediction not in PREDICTIONS:
            raise ValueError(
                f"prediction must be one of {', '.join(PREDICTIONS)}, got "
                f"{self.prediction!r:.100}"
            )
        if self.guidance is not None:
            _set(self, "guidance", _scale(self.guidance))
        elif self.guided_channels is not None:
            raise ValueError("guided_channels needs the guidance scale, got none")
        for name in ("guided_channels", "nfe"):
            if (value := getattr(self, name)) is not None:
                _set(self, name, scalars.count(name, value))
        if self.data_range is not None:
            _set(self, "data_range", scalars.positive("data_range", self.data_range))
        if not isinstance(self.measured, Measured | None):
            raise ValueError(f"measured must be a Measured, got {self.measured!r:.100}")
        _set(self, "identity", as_json("identity", self.identity))

    @classmethod
    def of(cls, vf: VelocityField, **stated: Any) -> Purpose:
        """What a field says of itself: scheduler, prediction and guidance.

        The fields of `velocity.from_epsilon` and its siblings know their scheduler and
        prediction, and one of `velocity.guided` its scale; others know nothing.

        Args:
          vf: the field, or a `Problem`, which knows all but what was measured.
          **stated: what else is known; it stands above what the field says.

        Returns:
          The purpose.

        Raises:
          TypeError: if there is no entry of a name.
          ValueError: if one is none of its kind.
        """
        if callable(own := getattr(vf, "purpose", None)):
            return dataclasses.replace(own({}), **stated)
        known: dict[str, Any] = {}
        if isinstance(vf, GuidedVelocity) and (ends := vf.scales):
            known["guidance"] = ends if ends[0] < ends[1] else ends[0]
            known["guided_channels"] = vf.channels
        for name in ("scheduler", "prediction"):
            known[name] = getattr(vf, name, None)
        return cls(**(known | stated))

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Purpose:
        """The inverse of `record`.

        Args:
          record: the entries of a solver file.

        Returns:
          The purpose.

        Raises:
          KeyError: if an entry is missing.
          ValueError: if one is none of its kind.
        """
        guidance, measured = record["guidance"], record["measured"]
        stated = {name: record[name] for name in PLAIN}
        if guidance is not None:
            _check_names("guidance", guidance, _GUIDANCE)
            if guidance["convention"] != CONVENTION:
                raise ValueError(
                    f"expected guidance by the convention {CONVENTION}, got "
                    f"{guidance['convention']!r:.100}"
                )
            stated["guidance"] = guidance["scale"]
            stated["guided_channels"] = guidance["channels"]
        if measured is not None:
            names = [field.name for field in dataclasses.fields(Measured)]
            _check_names("measured", measured, names)
            stated["measured"] = Measured(**measured)
        return cls(**stated)

    def record(self) -> dict[str, Any]:
        """The entries of a solver file, JSON values; None for what is not stated.

        Returns:
          Name -> value, as `solver.schema.json` has them.
        """
        guidance = measured = None
        if self.guidance is not None:
            values = CONVENTION, self.guidance, self.guided_channels
            guidance = dict(zip(_GUIDANCE, values, strict=True))
        if self.measured is not None:
            measured = dataclasses.asdict(self.measured)
        plain = {name: getattr(self, name) for name in PLAIN}
        return plain | {"guidance": guidance, "measured": measured}


def as_json(name: str, value: Any) -> dict[str, Any]:
    """A copy of JSON values by name, as they are when they are read again.

    Args:
      name: what they are, for the message.
      value: the values.

    Returns:
      The copy: tuples are lists, and names texts.

    Raises:
      ValueError: if they are none. JSON has no NaN and no infinities.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be by name, got {value!r:.100}")
    try:
        return dict(json.loads(json.dumps(dict(value), allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be JSON values: {error}") from error


def _scheduler(value: Any) -> dict[str, Any]:
    if isinstance(value, Scheduler):
        return describe(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"scheduler must be one, or have a name, got {value!r:.100}")
    return as_json("scheduler", value)


def _scale(value: Any) -> Scale:
    if isinstance(value, Sequence) or np.ndim(value) > 0:
        return _range("guidance", value)
    return scalars.finite("guidance", value)


def _range(name: str, values: Any) -> tuple[float, float]:
    ends = list(values) if isinstance(values, Sequence | np.ndarray) else []
    if len(ends) == 2:
        low, high = (scalars.finite(name, value) for value in ends)
        if low <= high:
            return low, high
    raise ValueError(f"{name} must be (low, high), got {values!r:.100}")


def _check_names(name: str, value: Any, names: Sequence[str]) -> None:
    if not isinstance(value, Mapping) or set(value) != set(names):
        raise ValueError(f"{name} must have {', '.join(names)}, got {value!r:.200}")


def _set(frozen: Any, name: str, value: Any) -> None:
    object.__setattr__(frozen, name, value)
