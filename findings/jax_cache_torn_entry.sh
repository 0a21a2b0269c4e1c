#!/usr/bin/env bash
# Guess: an entry of the persistent compilation cache that was cut short (the disk was full, the job
# was preempted while it wrote) costs one compilation, and the program compiled instead replaces it.
#
# Instead: what is compiled is written only where no file of that name lies. The damaged one stays, and
# every later start warns and compiles again, until somebody deletes the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2"
venv/bin/python - <<'EOF'
import os
import pathlib
import subprocess
import sys
from importlib.metadata import version

PROGRAM = """
import jax, jax.numpy as jnp
jax.config.update("jax_compilation_cache_dir", "cache")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((8, 8))).block_until_ready()
"""


def start():
    """Whether a new process complains of the cache."""
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, env=env
    )
    return "Error reading persistent compilation cache entry" in done.stderr


print("jax", version("jax"))
start()
entry = next(pathlib.Path("cache").glob("jit__lambda*-cache"))
whole = entry.stat().st_size
os.truncate(entry, whole // 2)
print(f"an entry of {whole} bytes is cut to {entry.stat().st_size}")
seen = []
for later in (1, 2, 3):
    seen.append((start(), entry.stat().st_size))
    print(f"start {later}: warns {seen[-1][0]}, the entry has {seen[-1][1]} bytes")
sys.exit(0 if seen == 3 * [(True, whole // 2)] else "the entry was replaced")
EOF
