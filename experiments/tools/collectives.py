"""What a compiled program sends from device to device, read from its text."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_KINDS = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
    "collective-broadcast",
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(\S+) \(.*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([^\s,)]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"\bcondition=%?([^\s,)]+)")
_COUNTS_TO = re.compile(r"ROOT .* compare\(%\S+, %(\S+)\), direction=LT")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Collective(NamedTuple):
    """One operation between devices.

    Attributes:
      kind: such as "all-reduce".
      bytes: that one device contributes.
      times: how often one call of the program runs it; None in a loop whose length the
        data decide.
    """

    kind: str
    bytes: int
    times: int | None


def collectives(text: str) -> list[Collective]:
    """Every collective of a compiled program.

    Args:
      text: `jax.jit(f).lower(*args).compile().as_text()`.
    """
    lines, entry = _computations(text)
    runs = _runs(lines, entry)
    found = []
    for name, body in lines.items():
        for line in body:
            if match := _COLLECTIVE.search(line):
                found.append(Collective(match[2], _bytes(match[1]), runs[name]))
    return found


def bytes_per_call(found: list[Collective]) -> float:
    """What a device contributes to all of them; infinite if the data decide."""
    return sum(
        np.inf if one.times is None else float(one.bytes * one.times) for one in found
    )


def has_float64(text: str) -> bool:
    """Whether any value of a program is a float64."""
    return "f64[" in text


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the entry."""
    lines, name, entry = collections.defaultdict[str, list[str]](list), "", ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[1]
            entry = name if line.startswith("ENTRY") else entry
        else:
            lines[name].append(line)
    return lines, entry


def _runs(lines: dict[str, list[str]], entry: str) -> dict[str, int | None]:
    """How often each computation runs; 0 if it is never called."""
    runs: dict[str, int | None] = collections.defaultdict(int)
    callers = [(entry, 1)] if entry else []
    waiting: list[tuple[str, int | None]] = list(callers)
    while waiting:
        name, times = waiting.pop()
        before = runs[name]
        runs[name] = None if before is None or times is None else before + times
        for called, repeats in _calls(lines, name):
            product = None if times is None or repeats is None else times * repeats
            waiting.append((called, product))
    return runs


def _calls(lines: dict[str, list[str]], name: str) -> Iterator[tuple[str, int | None]]:
    """What a computation calls, and how often each time that it runs."""
    for line in lines[name]:
        trips = _trips(lines, line) if " while(" in line else 1
        for name in _CALLED.findall(line):
            yield name, trips
        if branches := _BRANCHES.search(line):
            for name in branches[1].split(","):
                yield name.strip().removeprefix("%"), 1


def _trips(lines: dict[str, list[str]], line: str) -> int | None:
    """How often a loop runs: as it says, or up to the constant that ends it."""
    if known := _TRIPS.search(line):
        return int(known[1])
    condition = _CONDITION.search(line)
    body = "\n".join(lines[condition[1]]) if condition else ""
    limit = _COUNTS_TO.search(body)
    name = re.escape(limit[1]) if limit else ""
    constant = re.search(rf"%{name} = .*constant\((\d+)\)", body)
    return int(constant[1]) if limit and constant else None


def _bytes(shape: str) -> int:
    """The size of all arrays in the text of a type."""
    total = 0
    for dtype, sizes in _ARRAY.findall(shape):
        bits = 8 if dtype == "pred" else int(re.sub(r"\D+", " ", dtype).split()[0])
        count = int(np.prod([int(size) for size in sizes.split(",") if size]))
        total += count * max(bits, 8) // 8
    return total
