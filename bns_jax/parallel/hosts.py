"""The processes of one run: which one writes, and whether they mean the same run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Value = TypeVar("Value")
_STEPS_IN_FLIGHT = 10


def is_main() -> bool:
    """Whether this is process 0, the one that prints and writes.

    Returns:
      True in a run of one process.
    """
    return jax.process_index() == 0


def steps_in_flight() -> int:
    """How many steps a loop may dispatch before it waits for one.

    Before jax 0.12, CPU devices deadlock with many in flight, and those of several
    processes with more than one.

    Returns:
      1 for CPU devices of several processes, 10 elsewhere.
    """
    several = jax.process_count() > 1 and jax.default_backend() == "cpu"
    return 1 if several else _STEPS_IN_FLIGHT


def gather_text(text: str) -> list[str]:
    """What every process has to say, in their order; all of them must call it.

    Args:
      text: what this process says.

    Returns:
      One text for each process.
    """
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(max(int(np.max(lengths)), 1), np.uint8)
    padded[: len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [
        row[:length].tobytes().decode()
        for row, length in zip(rows, np.ravel(lengths), strict=True)
    ]


def if_everywhere(found: Value | None) -> Value | None:
    """What this process has found, if every process has found something.

    What one of them cannot read, all of them make again; all must call this.

    Args:
      found: what this process has found, or None.

    Returns:
      The same, or None.
    """
    if jax.process_count() == 1:
        return found
    there = multihost_utils.process_allgather(np.int8(found is not None))
    return found if np.all(there) else None


def on_main(action: Callable[[], str | None]) -> str:
    """Lets process 0 do something while the others wait.

    Args:
      action: what to do; what it does outside of the processes counts, and the text
        that it returns.

    Returns:
      The text, in every process.

    Raises:
      ValueError: in every process, if the action raises one.
      OSError: likewise.
    """
    said = ["", ""]
    failed: ValueError | OSError | None = None
    if is_main():
        try:
            said[1] = action() or ""
        except (ValueError, OSError) as error:
            failed = error
            kind = "OSError" if isinstance(error, OSError) else "ValueError"
            said = [kind, str(error) or type(error).__name__]
    kind, text = json.loads(gather_text(json.dumps(said))[0])
    if failed is not None:
        raise failed
    if kind:
        raise (OSError if kind == "OSError" else ValueError)(text)
    return text


def agree(settings: Mapping[str, str], what: str = "flags") -> None:
    """Checks that all processes were started alike.

    Args:
      settings: name -> value of whatever must be the same.
      what: they are; flags are named by --name.

    Raises:
      ValueError: in every process, naming what differs and who has which value.
    """
    there = [json.loads(text) for text in gather_text(json.dumps(dict(settings)))]
    differing = []
    for name in sorted(set().union(*there)):
        values = [found.get(name) for found in there]
        if len(set(values)) > 1:
            sides = (f"{value} on process {i}" for i, value in enumerate(values))
            prefix = "--" if what == "flags" else ""
            differing.append(f"  {prefix}{name}: " + ", ".join(sides))
    if differing:
        raise ValueError(
            f"the processes of one run must have the same {what}:\n"
            + "\n".join(differing)
        )
