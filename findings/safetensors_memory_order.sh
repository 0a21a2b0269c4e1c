#!/usr/bin/env bash
# Guess: safetensors.numpy.save writes an array's numbers in the order of its indices, whatever its
# memory looks like, and a newer version reads and writes as the older did.
#
# Instead: 0.8.0 writes the memory of a non-contiguous array as it lies, under the shape of the
# view: a transposed matrix comes back with its numbers permuted, every second entry of a vector
# comes back as its first half. 0.7.0 packed such arrays. np.ascontiguousarray before saving is safe
# in both. JAX hands out transposed host arrays where the device chose a column-major layout.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >check.py <<'EOF'
import sys
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load, save

print("safetensors", version("safetensors"), "numpy", version("numpy"))
array = np.arange(6.0)
right = []
for name, view in (("transposed", array.reshape(2, 3).T), ("every second", array[::2])):
    back = load(save({"w": view}))["w"]
    right.append(bool((back == view).all()))
    print(f"{name}: saved {view.tolist()} loaded {back.tolist()}")
    assert (load(save({"w": np.ascontiguousarray(view)}))["w"] == view).all()
expected = [sys.argv[1] == "right"] * 2
sys.exit(0 if right == expected else "this version treats such arrays otherwise")
EOF
for pair in 0.7.0:right 0.8.0:wrong; do
    python3 -m venv --clear venv
    venv/bin/pip install -q "safetensors==${pair%:*}" "numpy==2.4.6"
    venv/bin/python check.py "${pair#*:}"
done
