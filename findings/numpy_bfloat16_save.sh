#!/usr/bin/env bash
# Guess: np.save of a bfloat16 array either refuses or writes what np.load reads as bfloat16.
#
# Instead: it writes the dtype as two bytes without meaning. np.load succeeds and gives "V2", also
# with ml_dtypes imported; the numbers are there, but only for a reader who knows to call
# .view(bfloat16). In an .npz this happens leaf by leaf, beside healthy float32 leaves.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "numpy==2.4.6" "ml_dtypes==0.6.0"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import numpy as np
from ml_dtypes import bfloat16

print("numpy", version("numpy"), "ml_dtypes", version("ml_dtypes"))
weights = np.array([0.5, 1.5, -2.0], bfloat16)
np.savez("weights.npz", a=weights, b=weights.astype(np.float32))
with np.load("weights.npz") as file:
    a, b = file["a"], file["b"]
print("saved", weights.dtype, "- loaded", a.dtype, a, "beside", b.dtype, b)
print("a.view(bfloat16):", a.view(bfloat16))
still = a.dtype == np.dtype("V2") and (a.view(bfloat16) == weights).all()
sys.exit(0 if still else "bfloat16 is read back as something else")
EOF
