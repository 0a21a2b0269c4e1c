#!/usr/bin/env bash
# Guess: np.mean of a bfloat16 array is summed in float32, as it is for float16, or at least is
# close.
#
# Instead: it is summed one by one in bfloat16. From 256 on, adding 1 changes nothing, so the mean
# of a thousand ones is 0.2559. The sum and the standard deviation are wrong in the same way.
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
for dtype in (np.float32, np.float16, bfloat16):
    ones = np.ones(1000, dtype)
    mean, total = float(np.mean(ones)), float(np.sum(ones))
    print(f"{np.dtype(dtype)!s:9s} mean of 1000 ones {mean}, sum {total}")
still = mean < 0.3
sys.exit(0 if still else "the mean of bfloat16 ones is near 1")
EOF
