"""What a velocity field says of its conditioning, before long work.

Inside of jit the values of a condition are not known, and a label that does not exist
is found only by what it spoils. So a field, or the function or network in it, may carry
a method `check_args(args)`: the library calls it with the conditioning of all samples,
leaves (N, ...), before it compiles or computes anything.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from bns_jax.pytree import Partitioned


def check(vf: Any, args: tuple[Any, ...]) -> None:
    """Calls every `check_args` that is found in a field.

    Wrappers are seen through: `functools.partial` and `jax.tree_util.Partial` to the
    function and to what it is given, bound methods to their object, jitted functions to
    what they compile. The fields of `velocity` hand the call on.

    Args:
      vf: a velocity field, or anything else: what carries no check passes.
      args: its conditioning, concrete arrays with leading axis N.

    Raises:
      ValueError: from a check.
    """
    if isinstance(vf, Partitioned):
        vf = vf.whole
    own = getattr(vf, "check_args", None)
    if callable(own):
        own(args)
    elif isinstance(vf, functools.partial):
        for part in (vf.func, *vf.args):
            check(part, args)
    elif inspect.ismethod(vf):
        check(vf.__self__, args)
    else:
        # The latter is where JAX's Partial of a partial function keeps that.
        inner = getattr(vf, "__wrapped__", None) or getattr(vf, "fun", None)
        if inner is not None:
            check(inner, args)
