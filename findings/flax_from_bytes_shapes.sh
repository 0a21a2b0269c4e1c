#!/usr/bin/env bash
# Guess: flax.serialization.from_bytes(target, bytes) refuses bytes whose arrays have other shapes
# or dtypes than the target's, as it refuses other names.
#
# Instead: names are compared, shapes and dtypes are not. The target's arrays are replaced by what
# the bytes hold. A checkpoint of a wider or a float16 network loads, and fails (or, where shapes
# broadcast, computes something else) at some later line.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2" "flax==0.12.8"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import flax.serialization
import jax.numpy as jnp

print("jax", version("jax"), "flax", version("flax"))
saved = flax.serialization.to_bytes({"kernel": jnp.ones((3, 2), jnp.float16), "bias": jnp.zeros(1)})
target = {"kernel": jnp.ones((5, 7)), "bias": jnp.zeros(7)}
loaded = flax.serialization.from_bytes(target, saved)
for name in target:
    print(name, "target", target[name].shape, target[name].dtype, end=" ")
    print("loaded", loaded[name].shape, loaded[name].dtype)
still = loaded["kernel"].shape == (3, 2) and loaded["bias"].shape == (1,)
try:
    flax.serialization.from_bytes({"kernel": 0, "offset": 0}, saved)
except ValueError as error:
    print("another name:", str(error).split(".")[0])
sys.exit(0 if still else "the shapes are compared")
EOF
