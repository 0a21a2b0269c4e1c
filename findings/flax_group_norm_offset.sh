#!/usr/bin/env bash
# Guess: GroupNorm and LayerNorm take the mean away, so an offset of 1000 on all inputs costs a few
# digits of float32.
#
# Instead: the variance is E[x^2] - E[x]^2 unless use_fast_variance=False is given, and in float32
# all its digits cancel: at offset 1000 and spread 1 outputs are off by more than 1 (GroupNorm) and
# reach hundreds (LayerNorm). With use_fast_variance=False GroupNorm's error is 2e-4.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2" "flax==0.12.8"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import flax.linen as nn
import jax
import numpy as np

print("jax", version("jax"), "flax", version("flax"))
x = np.asarray(jax.random.normal(jax.random.key(0), (1, 16, 16, 8))) + np.float32(1000)
errors = {}
for layer, groups in ((nn.GroupNorm, 2), (nn.LayerNorm, None)):
    grouped = x.astype(np.float64).reshape((1, 256, 2, 4) if groups else (256, 8))
    axes = (1, 3) if groups else (1,)
    exact = grouped - grouped.mean(axes, keepdims=True)
    exact = (exact / np.sqrt(grouped.var(axes, keepdims=True) + 1e-6)).reshape(x.shape)
    for fast in (True, False):
        module = layer(groups, use_fast_variance=fast) if groups else layer(use_fast_variance=fast)
        y = module.apply(module.init(jax.random.key(0), x), x)
        errors[layer, fast] = float(abs(y - exact).max())
        print(f"{layer.__name__}(use_fast_variance={fast}): error {errors[layer, fast]:.2g}")
still = errors[nn.GroupNorm, True] > 0.5 and errors[nn.GroupNorm, False] < 1e-2
sys.exit(0 if still else "the offset is harmless")
EOF
