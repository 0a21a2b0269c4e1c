#!/usr/bin/env bash
# Guess: add_noise(x, noise, t) means the same in every scheduler made from the same betas: much
# noise at t = 999, little at t = 0.
#
# Instead: in four multistep schedulers that have not seen set_timesteps, as in training, it is the
# other way round (times descend, levels ascend). After set_timesteps(10), a time that is not among
# the ten gets the level of the last one, without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "torch==2.13.0" "diffusers==0.42.1"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import diffusers
import torch

print("torch", version("torch"), "diffusers", version("diffusers"))
zero, one, level = torch.zeros(1), torch.ones(1), {}


def noise(scheduler, t):
    return round(float(scheduler.add_noise(zero, one, torch.tensor([t]))[0]), 4)


names = "DDPM SASolver DPMSolverMultistep DPMSolverSinglestep DEISMultistep UniPCMultistep"
for name in names.split():
    scheduler = getattr(diffusers, name + "Scheduler")()
    level[name] = [noise(scheduler, t) for t in (0, 500, 999)]
    print(f"{name:20s} share of noise at t = 0, 500, 999: {level[name]}")
scheduler = diffusers.DPMSolverMultistepScheduler()
scheduler.set_timesteps(10)
print("times", scheduler.timesteps.tolist())
off = [noise(scheduler, t) for t in (999, 998, 899, 898, 100)]
print("noise at 999, 998, 899, 898, 100:", off)
still = level["DDPM"][0] < 0.1 < 0.9 < level["DPMSolverMultistep"][0] and off[1] == off[3] == off[4]
sys.exit(0 if still else "add_noise of the multistep schedulers agrees with DDPM")
EOF
