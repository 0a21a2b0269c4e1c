#!/usr/bin/env bash
# Guess: jax.vmap(f)(keys)[i] is f(keys[i]), whatever f is.
#
# Instead: for keys of the implementation "rbg" (the fast one on TPUs) a mapped draw takes the first
# key for the whole batch. Member 0 agrees, the others do not, and with keys[1:] replaced by other
# keys the batch stays the same.
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
import numpy as np

print("jax", version("jax"))


def draw(key):
    return jax.random.normal(key, (2,))


still = True
for name in ("threefry2x32", "rbg"):
    keys = jax.random.split(jax.random.key(0, impl=name), 3)
    others = jax.random.split(jax.random.key(7, impl=name), 3).at[0].set(keys[0])
    mapped, looped = np.asarray(jax.vmap(draw)(keys)), np.stack([draw(k) for k in keys])
    same = bool((mapped == looped).all())
    blind = bool((mapped == np.asarray(jax.vmap(draw)(others))).all())
    print(f"{name}: vmap equals loop: {same}; the same batch from other keys[1:]: {blind}")
    still &= (same, blind) == ((True, False) if name == "threefry2x32" else (False, True))
print("vmap", mapped.tolist(), "loop", looped.tolist(), sep="\n")
sys.exit(0 if still else "the batch now depends on each key, or threefry changed")
EOF
