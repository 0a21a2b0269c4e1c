"""Butcher tableaus of explicit Runge-Kutta methods."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tableau:
    """A Butcher tableau, which checks itself.

    Attributes:
      name: for messages.
      a: row j weighs the velocities of stages 0 .. j - 1 in stage j.
      b: the weights of all stages in the step; they sum to 1.
      order: of convergence, as its source claims; 1 for any.
      description: the name in tables, `name` if left out.
    """

    name: str
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int = 1
    description: str = ""

    def __post_init__(self) -> None:
        if [len(row) for row in self.a] != list(range(len(self.b))):
            raise ValueError(
                f"{self.name}: an explicit tableau of {len(self.b)} stages has rows of "
                f"0, 1, .. entries, got {[len(row) for row in self.a]}"
            )
        if not np.isclose(sum(self.b), 1.0, rtol=0, atol=1e-12):
            raise ValueError(f"{self.name}: b must sum to 1, got {sum(self.b)}")

    @property
    def c(self) -> tuple[float, ...]:
        """The nodes, c_j = sum_k a_jk."""
        return tuple(float(sum(row)) for row in self.a)

    @property
    def stages(self) -> int:
        """Evaluations per step."""
        return len(self.b)


EULER = Tableau("euler", a=((),), b=(1.0,), description="Euler")
MIDPOINT = Tableau("midpoint", a=((), (1 / 2,)), b=(0.0, 1.0), order=2)
HEUN = Tableau(
    "heun",
    a=((), (1.0,)),
    b=(1 / 2, 1 / 2),
    order=2,
    description="Heun, the explicit trapezoid",
)
RALSTON = Tableau(
    "ralston", a=((), (2 / 3,)), b=(1 / 4, 3 / 4), order=2, description="Ralston"
)
RK3 = Tableau(
    "rk3",
    a=((), (1 / 2,), (-1.0, 2.0)),
    b=(1 / 6, 2 / 3, 1 / 6),
    order=3,
    description="Kutta",
)
RK4 = Tableau(
    "rk4",
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    order=4,
    description="Runge-Kutta",
)
