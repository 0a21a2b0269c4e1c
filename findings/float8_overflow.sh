#!/usr/bin/env bash
# Guess: a number above the range of float8_e4m3fn (448) becomes the same thing in every library.
#
# Instead: PyTorch gives 448, ml_dtypes and JAX give nan. Weights or activations with one outlier
# are fine in one and poisoned in the other, after the same-looking cast to the same format.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "torch==2.13.0" "numpy==2.4.6" "ml_dtypes==0.6.0" "jax==0.10.2"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch

print(
    "torch",
    version("torch"),
    "numpy",
    version("numpy"),
    "ml_dtypes",
    version("ml_dtypes"),
    "jax",
    version("jax"),
)
x = 500.0
ours = {
    "torch": float(torch.tensor(x).to(torch.float8_e4m3fn)),
    "ml_dtypes": float(np.float32(x).astype(ml_dtypes.float8_e4m3fn)),
    "jax": float(jnp.float32(x).astype(jnp.float8_e4m3fn)),
}
print(x, "in float8_e4m3fn:", ours)
still = ours["torch"] == 448 and np.isnan(ours["ml_dtypes"]) and np.isnan(ours["jax"])
sys.exit(0 if still else "the libraries cast otherwise")
EOF
