"""The one loop that all training runs in: steps, measurements, endings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

import jax

from bns_jax import parallel
from bns_jax.distill.finite import RecentLosses

S = TypeVar("S")


class Interrupted(Exception):
    """A run that was asked to stop; its state is saved if it has a checkpoint."""


@dataclasses.dataclass(frozen=True)
class Loop(Generic[S]):
    """Steps from the first to the last, whatever is trained.

    Attributes:
      step: step(state, batch) -> (state, loss), jitted; the loss of a step that was
        not taken, because it is not finite, is nan.
      batch: batch(iteration) -> what a step works on, a function of the step alone.
      iterations: steps of a whole run.
      every: steps between measurements; the last is measured too.
      measure: measure(state) -> state; it also saves what is to be kept.
      save: save(state), between two measurements.
      fail: fail(state, done, count), where the last `count` losses are not finite;
        the state is saved then.
      stop: asked before each step.
      is_over: asked after each measurement: whether the run has no more to gain.
      losses: of the last steps; of those before a run was resumed too.
    """

    step: Callable[[S, Any], tuple[S, jax.Array]]
    batch: Callable[[int], Any]
    iterations: int
    every: int
    measure: Callable[[S], S]
    save: Callable[[S], None]
    fail: Callable[[S, int, int], NoReturn]
    stop: Callable[[], bool]
    is_over: Callable[[], bool]
    losses: RecentLosses

    def run(
        self, state: S, done: int, measured: bool, seen: Callable[[jax.Array], None]
    ) -> S:
        """All steps that are left.

        Args:
          state: after `done` steps.
          done: steps.
          measured: whether it was measured after the last of them.
          seen: called with the loss of each step, whose value need not be known yet.

        Returns:
          The state after the last one.

        Raises:
          Interrupted: if `stop` said yes; the state is saved.
        """
        self._check_finite(state, done, look=True)
        while done < self.iterations:
            if measured and self.is_over():
                self._check_finite(state, done, look=True, last=True)
                break
            if self.stop():
                if not measured:
                    self.save(state)
                raise Interrupted(f"stopped before iteration {done + 1}")
            state, loss = self.step(state, self.batch(done))
            self.losses.add(loss)
            seen(loss)
            done += 1
            if done % parallel.steps_in_flight() == 0:
                loss.block_until_ready()
            measured = done % self.every == 0 or done == self.iterations
            self._check_finite(state, done, look=measured)
            if measured:
                state = self.measure(state)
        return state

    def _check_finite(
        self, state: S, done: int, look: bool, last: bool = False
    ) -> None:
        if self.losses.none_is_finite(done, look, last):
            self.save(state)
            self.fail(state, done, len(self.losses))
