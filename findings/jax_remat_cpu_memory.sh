#!/usr/bin/env bash
# Guess: jax.checkpoint trades time for memory on every backend, also outside loops, where its default
# prevent_cse=True keeps the compiler from merging what is computed again with what was computed first.
#
# Instead: on CPU, layers that are written one after another need as much temporary memory with it as
# without it: the compiler merges the two. Inside lax.scan the memory is saved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2"
JAX_PLATFORMS=cpu venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import jax
import jax.numpy as jnp

print("jax", version("jax"))
LAYERS, x = 16, jnp.ones((64, 16))


def layer(x):
    wide = jnp.tanh(jnp.repeat(x, 32, axis=1))
    return jnp.sin(wide.reshape(64, 16, 32)).mean(axis=2)


def one_after_another(f, x):
    for _ in range(LAYERS):
        x = f(x)
    return jnp.sum(x)


def in_a_loop(f, x):
    return jnp.sum(jax.lax.scan(lambda x, _: (f(x), None), x, None, length=LAYERS)[0])


def kib(run, f):
    gradient = jax.jit(jax.grad(lambda x: run(f, x)))
    return gradient.lower(x).compile().memory_analysis().temp_size_in_bytes // 1024


found = {}
for run in (one_after_another, in_a_loop):
    found[run] = kib(run, layer), kib(run, jax.checkpoint(layer))
    print(run.__name__, "- KiB of temporaries: plain", *found[run][:1], "checkpoint", *found[run][1:])
plain, checkpoint = found[one_after_another]
loop_plain, loop_checkpoint = found[in_a_loop]
still = checkpoint > 0.9 * plain and loop_checkpoint < 0.5 * loop_plain
sys.exit(0 if still else "checkpoint saves memory outside loops now, or none inside")
EOF
