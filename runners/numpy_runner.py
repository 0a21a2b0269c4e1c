"""Runs a solver file of bns_jax with NumPy alone. Copy this file, or import it.

solver = load("bns_8.json"); x1 = sample(solver, field, x0)
"""

import hashlib
import json
from typing import Any

import numpy as np

FORMAT, MOST_NFE, MOST_BYTES = "bns_jax.solver/3", 1000, 22_000_000


def load(path: str) -> dict[str, Any]:
    """Reads a solver file; a ValueError if it is none of this format, or is damaged.

    Returns:
      The entries by name, JSON values but for times (n,), a (n,) and b (n, n), float64;
      "scheduler", "prediction" and "guidance" say which field they are for.
    """
    with open(path, "rb") as file:
        record = json.loads(file.read(MOST_BYTES))
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT}, got {found!r:.100}")
    rest = {name: value for name, value in record.items() if name != "sha256"}
    said = json.dumps(rest, sort_keys=True, allow_nan=False)
    if hashlib.sha256(said.encode()).hexdigest() != record.get("sha256"):
        raise ValueError(f"{path} is damaged: its checksum is another")
    times, a = (np.array(record[name], np.float64) for name in ("times", "a"))
    if not times.shape == a.shape == (len(record["b"]),) <= (MOST_NFE,):
        raise ValueError(f"{path}: expected n times, a and rows, n <= {MOST_NFE}")
    b = np.zeros((len(a), len(a)))
    for i, row in enumerate(record["b"]):
        b[i, : i + 1] = np.reshape(row, i + 1)
    return record | {"times": times, "a": a, "b": b}


def sample(solver: dict[str, Any], field: Any, x0: Any, *args: Any) -> Any:
    """The sample x_n: x_{i+1} = a_i x_0 + sum_{j <= i} b_ij u_j, u_j = u(t_j, x_j).

    Args:
      solver: of `load`.
      field: the velocity u(t, x, *args), of the shape of x, from t = 0, noise, to 1.
      x0: noise, a floating-point array, whose shape and dtype the sample has.
      *args: handed to the field. What is none of all these is a ValueError.
    """
    x = x0 = np.asarray(x0)
    if x0.dtype.kind not in "fV":  # V: bfloat16 and its kind.
        raise ValueError(f"expected noise of floating-point numbers, got {x0.dtype}")
    wide = np.result_type(x0, np.float32)  # Sums of 16 bits run in 32.
    times, a, b = (solver[name].astype(wide) for name in ("times", "a", "b"))
    velocities: list[Any] = []
    for t, a_i, row in zip(times, a, b, strict=True):
        velocities.append(np.asarray(field(t, x, *args), wide))
        if (got := velocities[-1].shape) != x.shape:
            raise ValueError(f"the field: expected shape {x.shape}, got {got}")
        x = sum(map(np.multiply, row, velocities), a_i * x0).astype(x0.dtype)
    return x
