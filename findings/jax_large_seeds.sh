#!/usr/bin/env bash
# Guess: different seeds give different keys, or a seed that does not fit is refused, as
# jnp.uint32(2**32) is.
#
# Instead: jax.random.key takes the seed modulo 2**32 without a word. 0 and 2**32 give one stream of
# numbers, and so do -1 and 2**32 - 1, so seeds taken from 64-bit hashes or times may collide. With
# jax_enable_x64 the same calls give different keys: the flag changes the random numbers.
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

print("jax", version("jax"))
same = {}
for x64 in (False, True):
    jax.config.update("jax_enable_x64", x64)
    for a, b in ((0, 2**32), (-1, 2**32 - 1)):
        keys = [jax.random.key_data(jax.random.key(seed)).tolist() for seed in (a, b)]
        same[x64, a] = keys[0] == keys[1]
        print(f"x64 {x64}: seeds {a} and {b} give keys {keys}")
still = same[False, 0] and same[False, -1] and not same[True, 0]
sys.exit(0 if still else "large seeds are told apart")
EOF
