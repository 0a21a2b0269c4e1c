#!/usr/bin/env bash
# Guess: with bfloat16 weights Adam is less exact, but its second moment still forgets: one large
# gradient is gone after some thousand small ones (0.999**5000 = 0.007).
#
# Instead: the moments take the dtype of the weights, and 0.999 in bfloat16 is 1. The second moment
# never decays: after one gradient of 10 the steps stay small for ever, 12 times smaller here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2" "optax==0.2.8"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp
import optax

print("jax", version("jax"), "optax", version("optax"))
adam, step = optax.adam(1e-3), {}
update = jax.jit(adam.update)
for dtype in (jnp.float32, jnp.bfloat16):
    state = adam.init(jnp.ones(1, dtype))
    for i in range(5000):
        updates, state = update(jnp.full(1, 10.0 if i == 0 else 0.01, dtype), state)
        if i == 0:
            first = float(state[0].nu[0])
    last = float(state[0].nu[0])
    step[dtype] = abs(float(updates[0]))
    print(
        f"{dtype.__name__:9s} second moment {first:.4f} -> {last:.6f}, last step {step[dtype]:.2e}"
    )
still = last >= first and step[jnp.float32] > 5 * step[jnp.bfloat16]
sys.exit(0 if still else "the second moment decays in bfloat16")
EOF
