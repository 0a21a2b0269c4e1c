#!/usr/bin/env bash
# Guess: odeint(f, y0, [0, 1]) calls f at times in [0, 1] only.
#
# Instead: the last step of the adaptive methods is as long as the controller likes, and the answer
# at 1 is interpolated. dopri5 calls f at 1.014 here. A noise schedule that ends at 1 is evaluated
# beyond its end: with sqrt(1 - t) in the field the solve fails with "underflow in dt", although the
# solution exists on [0, 1].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "torch==2.13.0" "torchdiffeq==0.2.5"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import torch
from torchdiffeq import odeint

print("torch", version("torch"), "torchdiffeq", version("torchdiffeq"))
times = []


def f(t, y):
    times.append(float(t))
    return -y


y = odeint(f, torch.ones(1), torch.tensor([0.0, 1.0]), method="dopri5")
print(f"latest call at t = {max(times):.4f} of [0, 1]; y(1) = {float(y[-1]):.6f}")


def schedule(t, y):
    return -y * torch.sqrt(1 - t)


try:
    end = odeint(schedule, torch.ones(1), torch.tensor([0.0, 1.0]), method="dopri5")[-1]
    print("with sqrt(1 - t):", float(end))
except AssertionError as error:
    print("with sqrt(1 - t): AssertionError:", error)
sys.exit(0 if max(times) > 1 else "no call after the last time")
EOF
