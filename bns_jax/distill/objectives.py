"""What a search minimizes and what it is judged by: functions of a batch."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from bns_jax.distill.batch import Batch
from bns_jax.distill.losses import OF_DISTANCE
from bns_jax.ns import NSParams, sample
from bns_jax.typing import Sample, VelocityField

EndFunction: TypeAlias = Callable[[Sample, Sample], jax.Array]
"""f(x_n, x1) -> (batch,)."""

BatchFunction: TypeAlias = Callable[[Any, Batch], jax.Array]
"""f(x_n, batch) -> (batch,); its second parameter is called `batch`."""

Metric: TypeAlias = EndFunction | BatchFunction
"""What a solver is judged by, of each sample; larger is better."""

ToParams: TypeAlias = Callable[[Any], NSParams]
"""The map of a family, theta -> NSParams."""


@dataclasses.dataclass(frozen=True)
class Pairwise:
    """A function of a batch that looks at x_n and x1 alone.

    Attributes:
      function: f(x_n, x1) -> (batch,).
    """

    function: EndFunction

    def __call__(self, x_n: Sample, batch: Batch) -> jax.Array:
        """The values of the function.

        Args:
          x_n: what the solver made.
          batch: the samples.

        Returns:
          (batch,).
        """
        return self.function(x_n, batch.x1)


def pairwise(function: EndFunction) -> BatchFunction:
    """A loss or metric of (x_n, x1) as one of (x_n, batch).

    Args:
      function: f(x_n, x1) -> (batch,).

    Returns:
      f(x_n, batch) -> (batch,).
    """
    return Pairwise(function)


def rollout_to_end(
    to_params: ToParams, theta: Any, vf: VelocityField, batch: Batch
) -> Sample:
    """x_n: the solver, run on the noise of the batch.

    Args:
      to_params: of the family.
      theta: its numbers.
      vf: the field.
      batch: samples.

    Returns:
      x_n, like batch.x0.
    """
    return sample(to_params(theta), vf, batch.x0, *batch.args)


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss, and what it is a loss of.

    Attributes:
      loss: loss(x, batch) -> (batch,).
      rollout: rollout(to_params, theta, vf, batch) -> x; the end x_n of the solver
        unless it says otherwise.
      of_distance: says of a loss of one's own that it depends on x_n by the norm of
        x_n - x(1) alone, where every entry counts the same; `gauss_newton` then takes
        less memory.
    """

    loss: BatchFunction
    rollout: Callable[[ToParams, Any, VelocityField, Batch], Any] = rollout_to_end
    of_distance: bool = False

    @property
    def is_of_end(self) -> bool:
        """Whether it is a loss of x_n."""
        return self.rollout is rollout_to_end

    @property
    def is_of_distance(self) -> bool:
        """Whether it depends on x_n by ||x_n - x(1)|| alone, as those of losses do."""
        return self.of_distance or bare(self.loss) in OF_DISTANCE


AnyObjective: TypeAlias = EndFunction | BatchFunction | Objective
"""What is minimized in the mean."""


def as_objective(given: AnyObjective) -> Objective:
    """An objective, or a loss of (x_n, batch) or of (x_n, x1), as an objective.

    Args:
      given: an objective or a loss.

    Returns:
      The objective, of x_n unless it says otherwise.

    Raises:
      TypeError: if it cannot be called, or does not say which of the two it is.
    """
    if hasattr(given, "rollout"):
        return given  # type: ignore[return-value]
    return Objective(as_batch_function(given))  # type: ignore[arg-type]


def as_batch_function(function: Metric) -> BatchFunction:
    """A function of (x_n, x1) or of (x_n, batch) as one of the latter.

    Which of them it is, the name of its second parameter says.

    Args:
      function: of x_n and, by the name of its second parameter, `batch` or x1.

    Returns:
      f(x_n, batch) -> (batch,).

    Raises:
      TypeError: if it cannot be called, or its parameters are not known.
    """
    if not callable(function):
        raise TypeError(
            "a loss or metric must be a function of (x_n, x1) or (x_n, batch), got "
            f"{type(function).__name__}"
        )
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the parameters of {function!r:.60} are not known: expected a function of "
            "(x_n, batch), or `distill.pairwise(loss)` for a loss of (x_n, x1)"
        ) from error
    names = [parameter.name for parameter in parameters]
    if names[1:2] == ["batch"]:
        return function  # type: ignore[return-value]
    return Pairwise(function)  # type: ignore[arg-type]


def named(objective: Objective) -> Any:
    """A function that names an objective: the one that was given, where there is.

    Args:
      objective: of x_n or of another rollout.

    Returns:
      A function, for `identity.describe`.
    """
    if objective.is_of_end:
        return bare(objective.loss)
    return functools.partial(objective.rollout, objective.loss)  # type: ignore[arg-type]


def bare(function: BatchFunction) -> Any:
    """The function of (x_n, x1) in one of a batch; any other as it is.

    Args:
      function: of (x_n, batch).

    Returns:
      The function within.
    """
    return getattr(function, "function", function)
