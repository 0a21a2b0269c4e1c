"""Which of the sets of weights in a file are meant: the averaged, or the only one.

Nothing is read while they are looked for: the numbers of an optimizer, and of weights
that are passed over, stay where they are.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from bns_jax import notices
from bns_jax.models.pickled_network import of_network
from bns_jax.models.weight_set import WeightSet, holds_tensor
from bns_jax.unpickle import Record

_WITHIN = ("net", "state_dict", "model_state_dict", "model", "params")
"""Where training scripts put the weights beside other things."""

_AVERAGED = re.compile(
    r"(?<![a-z])(emas?|averages?|averaged|avg|swa|shadows?|polyak)(?![a-z])"
)
"""In a name of averaged weights: model_ema, ema_weights, averaged_model, modelEMA."""


_ITSELF = ""
"""The name of the tensors that stand between the other sets."""


def search(content: Any) -> WeightSet | None:
    """The weights in what a file holds.

    Args:
      content: plain containers and records.

    Returns:
      Those of a network or by name that are meant: of several sets the averaged one,
      by the names of the raw one. None if there are none.

    Warns:
      UserWarning: if something is named an average and is none of the weights beside
        it by name, so that these are read.
    """
    return _search(content, set())


def _search(content: Any, seen: set[int]) -> WeightSet | None:
    """The same; each thing is looked at once."""
    if id(content) in seen:
        return None
    seen.add(id(content))
    if isinstance(content, Record):
        return of_network(content)
    if not isinstance(content, Mapping):
        return None
    found = _sets_in(content, seen)
    average = _average(found)
    if average is None and found:
        _warn_passed_over(content, found)
    return average or _within(found) or _only(found)


def _sets_in(content: Mapping[Any, Any], seen: set[int]) -> dict[str, WeightSet]:
    """By name; averages first, as what is there twice counts once."""
    names = sorted(
        (name for name in content if isinstance(name, str)),
        key=lambda name: not is_average(name),
    )
    sets = {name: _search(content[name], seen) for name in names}
    sets[_ITSELF] = flat({k: content[k] for k in names if holds_tensor(content[k])})
    return {name: weights for name, weights in sets.items() if weights}


def is_average(name: str) -> bool:
    """Whether something of this name is an average.

    Args:
      name: of a set of tensors, such as "model_ema".

    Returns:
      True if it is.
    """
    snake = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
    return bool(_AVERAGED.search(snake))


def _average(found: dict[str, WeightSet]) -> WeightSet | None:
    """The averaged set, if there is one."""
    named = {name: found[name] for name in found if is_average(name)}
    averages = named | {name: of for name, of in found.items() if of.averaged}
    raw = _as_large(found, averages)
    chosen = _averages(averages, list(raw.values()))
    return _one_average(chosen) if chosen else _of_others(named, raw)


def _of_others(
    named: dict[str, WeightSet], raw: dict[str, WeightSet]
) -> WeightSet | None:
    """An average of no set that is there, unless one that is there may be meant."""
    chosen = {name: of for name, of in named.items() if of.is_large or not raw}
    rivals = [name for name in (*_WITHIN, _ITSELF) if name in raw]
    if chosen and rivals:
        return WeightSet(fault=_several([*rivals, *chosen]))
    return _one_average(chosen)


def _as_large(
    found: dict[str, WeightSet], averages: dict[str, WeightSet]
) -> dict[str, WeightSet]:
    """The other sets; what is much smaller is the state of something else."""
    most = max((len(of.values) for of in averages.values()), default=0)
    return {
        name: of
        for name, of in found.items()
        if name not in averages and 2 * len(of.values) >= most
    }


def _averages(
    candidates: dict[str, WeightSet], raw: list[WeightSet]
) -> dict[str, WeightSet]:
    """Those that are the average of a raw one, or of none where there is none."""
    if not raw:
        return candidates
    matched = {
        name: next(filter(None, map(average.average_of, raw)), None)
        for name, average in candidates.items()
    }
    return {name: average for name, average in matched.items() if average}


def _one_average(chosen: dict[str, WeightSet]) -> WeightSet | None:
    if len(chosen) > 1:
        return WeightSet(fault=_several(list(chosen)))
    return next(
        (dataclasses.replace(of, averaged=True) for of in chosen.values()), None
    )


def _warn_passed_over(content: Mapping[Any, Any], found: dict[str, WeightSet]) -> None:
    names = [name for name in content if isinstance(name, str)]
    passed = [k for k in filter(is_average, names) if _holds_something(content[k])]
    read = [repr(name) if name else "itself" for name in found if name not in passed]
    if passed and read:
        notices.warn(
            f"no tensors by name in {passed}: those of {', '.join(read)} are read",
        )


def _holds_something(value: Any) -> bool:
    is_container = isinstance(value, Mapping | Record | list | tuple)
    return is_container and bool(value) and not holds_tensor(value)


def _within(found: dict[str, WeightSet]) -> WeightSet | None:
    """The set that has a usual name."""
    return next((found[name] for name in _WITHIN if name in found), None)


def _only(found: dict[str, WeightSet]) -> WeightSet | None:
    """The one set that is there.

    Beside a set of many tensors, one alone is the state of something else.
    """
    large = [weights for weights in found.values() if weights.is_large]
    if len(large) > 1 or (len(found) > 1 and not large):
        return WeightSet(fault=_several(list(found)))
    return next(iter(large or found.values()), None)


def _several(names: list[str]) -> str:
    told = [f"in {name!r}" for name in names if name] + ["itself"] * (_ITSELF in names)
    return f"it holds several sets of tensors: {', '.join(told)}"


def flat(values: dict[str, Any]) -> WeightSet:
    """Tensors by name; of averaged ones among others, by their prefix, these alone.

    Args:
      values: name -> an array, or the record of one.

    Returns:
      The set; with a fault if it cannot be said which tensors are meant.
    """
    groups = _by_prefix(values)
    averages = {name: of for name, of in groups.items() if is_average(name)}
    raw = [of for name, of in groups.items() if name not in (*averages, _ITSELF)]
    if raw:
        others = {
            k: v for k, v in values.items() if k.partition(".")[0] not in averages
        }
        raw.append(WeightSet(others))
    return _one_average(_averages(averages, raw)) or WeightSet(values)


def _by_prefix(values: dict[str, Any]) -> dict[str, WeightSet]:
    groups: dict[str, WeightSet] = {}
    for name, value in values.items():
        first, dot, rest = name.partition(".")
        prefix, inner = (first, rest) if dot else (_ITSELF, name)
        groups.setdefault(prefix, WeightSet()).values[inner] = value
    return groups
