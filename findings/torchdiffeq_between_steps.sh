#!/usr/bin/env bash
# Guess: with a fixed step_size, odeint steps through each requested time, or interpolates to the
# order of the method.
#
# Instead: steps ignore the requested times and the values between two steps are joined by a
# straight line: with rk4 and steps of 1/2, the answers at multiples of 1/2 have errors of 3e-4,
# those halfway 2e-2. Also, "rk4" is Kutta's 3/8 rule (stages at 0, 1/3, 2/3, 1), not the classical
# method, and some step sizes 1/n take n + 1 steps in float32.
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
t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
y = odeint(lambda t, y: -y, torch.ones(1), t, method="rk4", options={"step_size": 0.5})[:, 0]
errors = (y - torch.exp(-t)).abs()
print("times", t.tolist(), "errors", [f"{float(e):.0e}" for e in errors])
times = []


def f(t, y):
    times.append(float(t))
    return -y


ends = torch.tensor([0.0, 1.0])
odeint(f, torch.ones(1), ends, method="rk4")
print("stages of one rk4 step:", [round(s, 3) for s in times])
steps = {}
for n in range(1, 151):
    times.clear()
    odeint(f, torch.ones(1), ends, method="euler", options={"step_size": 1 / n})
    steps[n] = len(times)
print("1/n that takes more than n Euler steps:", {n: s for n, s in steps.items() if s != n})
still = errors[1] > 50 * errors[2] and errors[3] > 50 * errors[4]
sys.exit(0 if still else "values between two steps are as good as those at steps")
EOF
