#!/usr/bin/env bash
# Guess: EMAModel(decay=0.9999, use_ema_warmup=False) averages with a decay of 0.9999 from its first
# update on.
#
# Instead: the flag chooses between two warm-ups. With False the decay is (1 + n) / (10 + n): 0.18
# at the second update and 0.991 after a thousand, and 0.9999 is reached after some 90,000. So in
# the first 90,000 updates it averages over the last ninth of the run, not over 10,000 updates.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "torch==2.13.0" "diffusers==0.42.1"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import torch
from diffusers.training_utils import EMAModel

print("torch", version("torch"), "diffusers", version("diffusers"))
ema = EMAModel([torch.nn.Parameter(torch.zeros(1))], decay=0.9999, use_ema_warmup=False)
decay = {n: float(ema.get_decay(n)) for n in (1, 2, 10, 100, 1000, 10_000, 90_000, 100_000)}
for n, d in decay.items():
    print(f"update {n}: decay {d:.6f}")
still = decay[2] < 0.5 and decay[1000] < 0.995 and decay[100_000] == 0.9999
sys.exit(0 if still else "the decay is constant without warm-up")
EOF
