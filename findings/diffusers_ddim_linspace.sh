#!/usr/bin/env bash
# Guess: each DDIM step goes from one entry of scheduler.timesteps to the noise level of the next.
#
# Instead: a step is 1000 // n long whatever the spacing. With timestep_spacing="linspace" and 4
# steps the network is called at 999, 666, 333 and 0, but the steps lead to the levels of 749, 416
# and 83: from the second call on it is told a time that its input does not have. "leading" and
# "trailing" (4 divides 1000) lead to the next entry.
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
from diffusers import DDIMScheduler

print("torch", version("torch"), "diffusers", version("diffusers"))
reached, times = {}, {}
for spacing in ("leading", "trailing", "linspace"):
    scheduler = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(4)
    level = (1 - scheduler.alphas_cumprod).sqrt()  # samples of the data point 0 with noise 1
    times[spacing] = scheduler.timesteps.tolist()
    steps = [scheduler.step(torch.ones(()), t, level[t]).prev_sample for t in times[spacing][:-1]]
    reached[spacing] = [int((level - x).abs().argmin()) for x in steps]
    print(f"{spacing}: called at {times[spacing]}, steps reach {reached[spacing]}")
still = reached["leading"] == times["leading"][1:] and reached["linspace"] == [749, 416, 83]
sys.exit(0 if still else "steps lead to the next entry")
EOF
