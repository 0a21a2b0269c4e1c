#!/usr/bin/env bash
# Guess: ravel_pytree returns a vector and the function that brings the tree back unchanged.
#
# Instead: leaves of mixed dtype are joined in their common dtype, which for int32 beside float32 is
# float32. The way back casts to int32 again, so the tree looks untouched, but integers above 2**24
# are rounded without a warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2"
venv/bin/python - <<'EOF'
import sys
import warnings
from importlib.metadata import version

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

print("jax", version("jax"))
tree = {"step": jnp.int32(2**24 + 1), "weight": jnp.ones(2)}
with warnings.catch_warnings():
    warnings.simplefilter("error")
    vector, back = ravel_pytree(tree)
    again = back(vector)
print(
    "vector of",
    vector.dtype,
    "- step was",
    tree["step"],
    "and is",
    again["step"],
    again["step"].dtype,
)
still = again["step"].dtype == jnp.int32 and again["step"] == 2**24
sys.exit(0 if still else "the integer came back unchanged")
EOF
