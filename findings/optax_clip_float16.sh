#!/usr/bin/env bash
# Guess: clip_by_global_norm(1.0) makes any finite gradient one of norm 1 in the same direction.
#
# Instead: the norm is summed in the dtype of the gradient. In float16 two entries of 300 have
# squares above 65504, the norm is infinite, and the gradient, finite and unremarkable, is clipped
# to zero: training stands still without a nan that anybody could notice.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2" "optax==0.2.8"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import jax.numpy as jnp
import optax

print("jax", version("jax"), "optax", version("optax"))
clip = optax.clip_by_global_norm(1.0)
for dtype in (jnp.float32, jnp.float16):
    gradient = jnp.full(2, 300.0, dtype)
    clipped, _ = clip.update(gradient, clip.init(gradient))
    print(dtype.__name__, "norm", optax.global_norm(gradient), "clipped to", clipped)
still = bool((clipped == 0).all())
sys.exit(0 if still else "the float16 gradient keeps its direction")
EOF
