"""Callables as pytrees, arrays on the host, and their checksums."""

from __future__ import annotations

import functools
import hashlib
import inspect
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from bns_jax.held import Holding, UnboundMethod, as_it_is

_ARRAYS = (jax.Array, np.ndarray, np.generic)


@jax.tree_util.register_pytree_node_class
class Partitioned:
    """A callable pytree of which some leaves are no arrays: these become static.

    Modules of Equinox hold activation functions, flags and sizes beside their weights.
    The arrays are the leaves, as jit wants them; the rest is compared by equality.
    """

    def __init__(self, arrays: list[Any], static: tuple[Any, ...], structure: Any):
        """Takes the parts; `as_pytree` makes them.

        Args:
          arrays: the leaves that are arrays, and None in the place of the others.
          static: the other leaves, and None in the place of the arrays.
          structure: of the callable.
        """
        self._arrays, self._static, self._structure = arrays, static, structure

    @property
    def whole(self) -> Any:
        """The callable itself."""
        leaves = [
            static if array is None else array
            for array, static in zip(self._arrays, self._static, strict=True)
        ]
        return jax.tree.unflatten(self._structure, leaves)

    def __call__(self, *args: Any) -> Any:
        """Calls the callable.

        Args:
          *args: of the callable.

        Returns:
          What it returns.
        """
        return self.whole(*args)

    def __getattr__(self, name: str) -> Any:
        # A velocity field keeps its `ends` and its scheduler.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.whole, name)

    def tree_flatten(self) -> tuple[list[Any], Any]:
        """The arrays, and what is static.

        Returns:
          The children and the auxiliary data of JAX's registry.
        """
        return self._arrays, (_Static(self._static), self._structure)

    @classmethod
    def tree_unflatten(cls, aux: Any, arrays: Any) -> Partitioned:
        """The inverse of `tree_flatten`.

        Args:
          aux: the auxiliary data.
          arrays: the children.

        Returns:
          The callable.
        """
        return cls(list(arrays), aux[0].values, aux[1])


class _Static(NamedTuple):
    """Values compared by equality, whether they can be hashed or not."""

    values: tuple[Any, ...]

    def __hash__(self) -> int:
        return hash(tuple(map(type, self.values)))


class Current(functools.partial[Any]):
    """A `jax.tree_util.Partial` whose function counts as what it holds at each call."""


def _parts_of(call: Current) -> tuple[Any, Any]:
    return (call.args, call.keywords), as_it_is(call.func)


def _of_parts(function: Any, parts: Any) -> Current:
    function = function.function if isinstance(function, Holding) else function
    return Current(function, *parts[0], **parts[1])


jax.tree_util.register_pytree_node(Current, _parts_of, _of_parts)


def as_pytree(function: Any) -> Any:
    """A callable that may be an argument of a jitted function.

    Plain functions become the static part of a `Current`, what a partial function holds
    its arguments. Modules of NNX and Equinox and other callables that are pytrees come
    back as they are if all their leaves are arrays; otherwise the other leaves become
    static.

    Args:
      function: any callable.

    Returns:
      A callable pytree, all leaves of which are arrays.

    Raises:
      ValueError: if it cannot be called.
    """
    if not callable(function):
        # A problem, which is known on higher floors.
        has_field = callable(getattr(function, "field", None))
        advice = "; give its field, problem.field" if has_field else ""
        got = type(function).__name__
        raise ValueError(f"expected a function, got {got}{advice}")
    if isinstance(function, functools.partial):
        current = Current(function.func, *function.args, **function.keywords)
        return _arrays_apart(current, (function.args, function.keywords))
    if inspect.ismethod(function) and _has_arrays(function.__self__):
        # The weights of its module travel as arguments, as those of the module do.
        owner = _arrays_apart(function.__self__)
        return Current(UnboundMethod(function.__func__), owner)
    if jax.tree_util.treedef_is_leaf(jax.tree.structure(function)):
        return Current(function)
    return _arrays_apart(function)


def _has_arrays(tree: Any) -> bool:
    structure = jax.tree.structure(tree)
    leaves = jax.tree.leaves(tree)
    is_leaf = jax.tree_util.treedef_is_leaf(structure)
    return not is_leaf and any(isinstance(leaf, _ARRAYS) for leaf in leaves)


def _arrays_apart(tree: Any, inside: Any = None) -> Any:
    """A pytree as it is if all its leaves are arrays, else with the others static.

    `inside` has the same leaves, where flattening the tree itself takes long.
    """
    # There may be thousands, at each call, and few types of them.
    types = set(map(type, jax.tree.leaves(inside or tree)))
    if all(issubclass(kind, _ARRAYS) for kind in types):
        return tree
    leaves, structure = jax.tree.flatten(tree)
    paired = [(leaf, isinstance(leaf, _ARRAYS)) for leaf in leaves]
    if all(is_array for _, is_array in paired):
        return tree
    return Partitioned(
        [leaf if is_array else None for leaf, is_array in paired],
        tuple(None if is_array else as_it_is(leaf) for leaf, is_array in paired),
        structure,
    )


def on_host(leaf: Any) -> np.ndarray:
    """One array as NumPy, gathered where it lies on the devices of several processes.

    All of these must then call it.

    Args:
      leaf: an array of JAX or NumPy, or a number.

    Returns:
      The whole array.
    """
    if isinstance(leaf, jax.Array) and not (
        leaf.is_fully_addressable or leaf.is_fully_replicated
    ):
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def checksum(tree: Any) -> str:
    """SHA-256 over the paths, dtypes, shapes and bytes of all leaves.

    Typed PRNG keys count by their key data. The structure enters through the paths
    alone, so a named tuple and a restored copy of it agree.

    Args:
      tree: a pytree of arrays and numbers.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        ):
            leaf = jax.random.key_data(leaf)
        array = on_host(leaf)
        header = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};"
        digest.update(header.encode())
        # Without a copy: it may be mapped from a file larger than the memory.
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
