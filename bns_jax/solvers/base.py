"""What a solver is: a frozen dataclass of its options, with one algorithm."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias

from bns_jax import grids, scalars
from bns_jax.ns import NSParams, from_solver
from bns_jax.schedulers import check_scheduler
from bns_jax.typing import Sample, Solver

History: TypeAlias = Sequence[tuple[float, Sample, Sample]]
"""(t, x, u) of points before a grid, oldest first."""


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """A solver, before it has a number of evaluations, a path and a grid.

    A subclass is a frozen dataclass. Its fields are its options; `history`, where there
    is one, holds points before the grid, without which the first steps of a multistep
    method are of lower order. The attributes below say what is known of the solver:
    class attributes without an annotation (which would make them fields), or properties
    where they depend on the options. One that is an option itself, such as
    `order: int = 2` of Adams-Bashforth, is a field with a default.

    Attributes:
      order: of convergence, on steps that touch no infinite log-SNR, with the options
        of `full_order`.
      description: in one line.
      reference: where it is published.
      kind: "generic" (knows nothing of the path), "exponential" or "scale-time".
      stages: evaluations per step.
      extra: evaluations beyond `stages` for each step; -1 where the last step makes one
        less.
      aliases: names of options as `replace` and the public functions know them -> the
        fields, where those of the class are others.
    """

    aliases: ClassVar[Mapping[str, str]] = {}

    @property
    @abc.abstractmethod
    def order(self) -> int:
        """Of convergence."""

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """In one line."""

    @property
    @abc.abstractmethod
    def reference(self) -> str:
        """Where it is published."""

    @property
    def kind(self) -> str:
        """Whether it is "generic", "exponential" or "scale-time"."""
        return "generic"

    @property
    def stages(self) -> int:
        """Evaluations per step."""
        return 1

    @property
    def extra(self) -> int:
        """Evaluations beyond `stages` for each step."""
        return 0

    @property
    def name(self) -> str:
        """In messages."""
        return type(self).__name__

    def steps(self, nfe: int) -> int:
        """How many steps so many evaluations make, `stages` for each.

        Args:
          nfe: evaluations in all.

        Returns:
          nfe / stages.

        Raises:
          ValueError: if they cannot be split.
        """
        nfe = scalars.nfe(nfe)
        if nfe % self.stages:
            raise ValueError(
                f"{self.name} takes {self.stages} evaluations per step: nfe must be a "
                f"positive multiple of {self.stages}, got {nfe}"
            )
        return nfe // self.stages

    @abc.abstractmethod
    def algorithm(
        self, nfe: int, scheduler: Any, grid: grids.GridLike | None = None
    ) -> Solver:
        """The solver as a plain algorithm, written as its paper writes it.

        Args:
          nfe: evaluations in all.
          scheduler: the path of the model; generic methods look at none.
          grid: times of the scheduler, the solver's own default if left out.

        Returns:
          algorithm(vf, x0) -> x1, for `from_solver` or to run as it is.

        Raises:
          ValueError: if the solver does not exist for these arguments.
        """

    def build(
        self, nfe: int, scheduler: Any = None, grid: grids.GridLike | None = None
    ) -> NSParams:
        """The solver as three float64 arrays: its `algorithm`, traced.

        Args:
          nfe: as of `algorithm`.
          scheduler: likewise.
          grid: likewise.

        Returns:
          The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe).

        Raises:
          ValueError: if the solver does not exist for these arguments.
        """
        nfe = scalars.nfe(nfe)
        self.check_scheduler(scheduler, grid)
        return from_solver(self.algorithm(nfe, scheduler, grid), nfe)

    def check_scheduler(
        self, scheduler: Any, grid: grids.GridLike | None = None
    ) -> None:
        """Refuses to go without the path of the model, or on a grid of another.

        Args:
          scheduler: the path of the model, or None.
          grid: as of `algorithm`.

        Raises:
          ValueError: if the method is not generic and there is none, or the grid is of
            the training steps of another table.
        """
        check_scheduler(scheduler, optional=True)
        grids.check_path(grid, scheduler)
        if scheduler is None and self.kind != "generic":
            raise ValueError(
                f"{self.name} follows the path of the model: expected its scheduler, "
                "got None"
            )

    @property
    def options(self) -> dict[str, str]:
        """The names of its options -> the fields that hold them."""
        names = {field: name for name, field in self.aliases.items()}
        fields = [field.name for field in dataclasses.fields(self)]
        return {names.get(field, field): field for field in fields}

    def replace(self, **options: Any) -> Self:
        """The method with some of its options changed.

        Args:
          **options: by the names of `options`.

        Returns:
          A method of the same class.

        Raises:
          ValueError: if it has no such option; names those that it has.
        """
        fields = self.options
        unknown = [repr(name) for name in options if name not in fields]
        if unknown:
            raise ValueError(
                f"{self.name} has no option {', '.join(unknown)}; it has "
                f"{', '.join(fields) or 'none'}"
            )
        changes = {fields[name]: value for name, value in options.items()}
        return dataclasses.replace(self, **changes)

    @property
    def lowers(self) -> bool:
        """Whether it has lower_order_final, by which its last steps fall in order."""
        return "lower_order_final" in self.options

    @property
    def full_order(self) -> dict[str, Any]:
        """The options with which the last steps are as those before."""
        return {"lower_order_final": False} if self.lowers else {}
