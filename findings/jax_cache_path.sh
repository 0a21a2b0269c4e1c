#!/usr/bin/env bash
# Guess: the persistent compilation cache is a folder of programs; copied elsewhere (to another
# machine, into an image) it hits as before.
#
# Instead: the folder's path is part of each key, since further caches of XLA's are switched on with
# paths inside it. The same folder under another name misses everything and is filled a second time.
# With jax_persistent_cache_enable_xla_caches="none" the copy hits.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2"
venv/bin/python - <<'EOF'
import os
import shutil
import subprocess
import sys
from importlib.metadata import version

PROGRAM = """
import sys
import jax, jax.numpy as jnp
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_persistent_cache_enable_xla_caches", sys.argv[2])
jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((8, 8))).block_until_ready()
"""


def entries(folder, setting):
    subprocess.run([sys.executable, "-c", PROGRAM, folder, setting], check=True)
    return {name for name in os.listdir(folder) if name.endswith("-cache")}


print("jax", version("jax"))
grown = {}
for setting in ("xla_gpu_per_fusion_autotune_cache_dir", "none"):
    first, copy = os.path.abspath("first-" + setting), os.path.abspath("copy-" + setting)
    made = entries(first, setting)
    again = entries(first, setting)
    shutil.copytree(first, copy)
    grown[setting] = len(entries(copy, setting) - made)
    print(f"{setting}: {len(made)} programs, new in a second run {len(again - made)},", end=" ")
    print(f"new in the copy {grown[setting]}")
still = grown["none"] == 0 < grown["xla_gpu_per_fusion_autotune_cache_dir"]
sys.exit(0 if still else "a copied cache hits")
EOF
