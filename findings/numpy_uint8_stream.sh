#!/usr/bin/env bash
# Guess: a Generator is one stream, so 3 numbers and 3 more are the 6 numbers drawn at once.
#
# Instead: that holds for random(), also in float32, but not for integers(dtype=uint8). Each call
# cuts its own 32-bit words into four bytes and throws away the bytes left over. Augmentations drawn
# per batch thus depend on the batch size, and on where a run was resumed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "numpy==2.4.6"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import numpy as np

print("numpy", version("numpy"))


def draws(draw):
    parts, whole = np.random.default_rng(0), np.random.default_rng(0)
    return np.concatenate([draw(parts, 3), draw(parts, 3)]), draw(whole, 6)


same = {}
for name, draw in {
    "random float64": lambda g, n: g.random(n),
    "random float32": lambda g, n: g.random(n, dtype=np.float32),
    "integers int64": lambda g, n: g.integers(0, 256, n),
    "integers uint8": lambda g, n: g.integers(0, 256, n, dtype=np.uint8),
}.items():
    parts, whole = draws(draw)
    same[name] = bool((parts == whole).all())
    print(f"{name}: 3 + 3 equals 6: {same[name]}")
print("3 + 3:", parts, " 6:", whole)
still = list(same.values()) == [True, True, True, False]
sys.exit(0 if still else "the streams behave otherwise")
EOF
