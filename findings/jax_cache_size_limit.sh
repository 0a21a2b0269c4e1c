#!/usr/bin/env bash
# Guess: `jax_compilation_cache_max_size` bounds the persistent compilation cache of a plain installation
# of jax: old entries go, new ones are kept. Where something were missing for that, setting it would fail.
#
# Instead: the bound wants a package that jax does not depend on (filelock). Without it setting the value
# is accepted, then nothing is written at all, and each program warns that an entry could not be read.
# With it, the same program leaves its entries.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2"
cat > program.py <<'EOF'
import os
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version

import jax
import jax.numpy as jnp

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_compilation_cache_max_size", 10**8)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((8, 8))).block_until_ready()
entries = os.listdir(sys.argv[1]) if os.path.isdir(sys.argv[1]) else []
kept = sum(name.endswith("-cache") for name in entries)
named = any("filelock" in str(one.message) for one in caught)
try:
    there = version("filelock")
except PackageNotFoundError:
    there = "missing"
print(f"jax {version('jax')}, filelock {there}: {kept} entries, warns of filelock: {named}")
sys.exit(0 if (kept > 0, named) == (there != "missing", there == "missing") else "that has changed")
EOF
export JAX_PLATFORMS=cpu
venv/bin/python program.py without
venv/bin/pip install -q "filelock==3.20.0"
venv/bin/python program.py with
