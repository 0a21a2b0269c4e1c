#!/usr/bin/env bash
# Guess: a loop changes nothing about how one of its operations is compiled.
#
# Instead: on CPU the convolution of a gradient keeps, inside a loop, a kernel whose input and output
# channels are swapped, which no fast routine takes; outside a loop the compiler swaps them back. The
# same eight convolutions then take many times as long in lax.scan as one after another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2"
JAX_PLATFORMS=cpu venv/bin/python - <<'EOF'
import re
import sys
import time
from importlib.metadata import version

import jax
import jax.numpy as jnp

print("jax", version("jax"))
x = jax.random.normal(jax.random.key(0), (4, 16, 16, 32))
kernel = jax.random.normal(jax.random.key(1), (3, 3, 32, 32)) / 17


def layer(x, _):
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(y), None


def compiled(unroll):
    def total(x):
        return jnp.sum(jax.lax.scan(layer, x, None, length=8, unroll=unroll)[0] ** 2)

    return jax.jit(jax.grad(total)).lower(x).compile()


def milliseconds(program):
    times = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(program(x))
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


kernels = {}
for name, unroll in (("in a loop", 1), ("one after another", 8)):
    program = compiled(unroll)
    kernels[name] = set(re.findall(r"dim_labels=b01f_(\w+)->", program.as_text()))
    print(f"{name}: {milliseconds(program):.1f} ms, kernels {sorted(kernels[name])}")
still = "01oi" in kernels["in a loop"] and kernels["one after another"] == {"01io"}
sys.exit(0 if still else "both have kernels of one form now")
EOF
