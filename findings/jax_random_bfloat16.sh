#!/usr/bin/env bash
# Guess: jax.random draws in bfloat16 are float32 draws, rounded; bernoulli(p) is True with
# probability p, whatever the dtype of p.
#
# Instead: the uniform number behind every draw has 7 random bits. A million normals take only 128
# values, none above 2.9 in size, and their mean is -0.012 (12 standard errors from 0). bernoulli
# compares such a uniform number with p, so p = 0.001 in bfloat16 is True with probability 1/128, 8
# times too often. Noise and masks of a bfloat16 model are best drawn in float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np

print("jax", version("jax"))
key, size = jax.random.key(0), (1_000_000,)
z, share = {}, {}
for dtype in (jnp.float32, jnp.bfloat16):
    z[dtype] = np.asarray(jax.random.normal(key, size, dtype).astype(jnp.bfloat16), np.float64)
    share[dtype] = float(jax.random.bernoulli(key, dtype(0.001), size).mean())
    print(f"drawn in {dtype.__name__}: {len(np.unique(z[dtype]))} values in bfloat16,", end=" ")
    print(f"largest {abs(z[dtype]).max():.3f}, mean {z[dtype].mean():+.4f};", end=" ")
    print(f"bernoulli(0.001) is True for {share[dtype]:.4f}")
still = len(np.unique(z[jnp.bfloat16])) <= 256 and share[jnp.bfloat16] > 5 * share[jnp.float32]
sys.exit(0 if still else "bfloat16 draws are no longer coarse")
EOF
