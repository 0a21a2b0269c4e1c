#!/usr/bin/env bash
# Guess: resizing by a whole factor with Image.BOX gives the average of each block, rounded.
#
# Instead: rows and columns are averaged one after the other and rounded to a byte in between. A
# fifth of the pixels are not the rounded average, nearly all of them too bright, which shifts the
# mean of a data set by 0.24 of 255. Image.reduce(4), or mode "F", rounds once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "pillow==13.0.0" "numpy==2.4.6"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import numpy as np
from PIL import Image

print("pillow", version("pillow"), "numpy", version("numpy"))
pixels = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
exact = pixels.reshape(64, 4, 64, 4).mean((1, 3), dtype=np.float64)
image, share = Image.fromarray(pixels), {}
for name, small in (("resize", image.resize((64, 64), Image.BOX)), ("reduce", image.reduce(4))):
    error = np.asarray(small, np.float64) - exact
    share[name] = float((abs(error) > 0.5).mean())
    print(
        f"{name}: {share[name]:.1%} of pixels off by more than 1/2, mean error {error.mean():+.3f}"
    )
still = share["resize"] > 0.05 and share["reduce"] == 0
sys.exit(0 if still else "BOX averages are rounded once")
EOF
