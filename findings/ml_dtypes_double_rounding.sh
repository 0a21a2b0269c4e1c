#!/usr/bin/env bash
# Guess: a float64 cast to bfloat16 gives the nearest bfloat16.
#
# Instead: it goes through float32, so it is rounded twice. 1 + 2**-8 + 2**-40 lies above the middle
# of 1 and 1 + 2**-7 and should go up; float32 drops the 2**-40, which leaves a tie, and the tie
# goes down to even. The same holds for the scalar bfloat16(x). An oracle in float64 is one unit off
# there.
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
x = np.float64(1 + 2.0**-8 + 2.0**-40)
cast = float(x.astype(bfloat16))
up, down = 1 + 2.0**-7, 1.0
print("x - 1 =", x - 1, "cast:", cast, "scalar:", float(bfloat16(float(x))))
print(f"distance to {up}: {(up - x).hex()}, to {down}: {(x - down).hex()}")
still = up - x < x - down and cast == down
sys.exit(0 if still else "the cast gives the nearest number")
EOF
