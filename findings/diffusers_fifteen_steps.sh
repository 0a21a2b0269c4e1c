#!/usr/bin/env bash
# Guess: one more step never makes DPM-Solver++ (2M) clearly worse on a smooth problem.
#
# Instead: lower_order_final=True, which lowers the order of the last step, is honored below 15
# steps only. With final_sigmas_type="sigma_min" the error on a normal distribution with its exact
# network is 0.099 with 14 steps and 0.168, of the other sign, with 15; it takes some 30 steps to
# come below that of 14. Tables over the number of steps show a jump which belongs to no method.
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
from diffusers import DPMSolverMultistepScheduler

print("torch", version("torch"), "diffusers", version("diffusers"))


def error(n, std=0.5):
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(n)
    keep = scheduler.alphas_cumprod.double()
    variance = keep * std**2 + 1 - keep  # of the noised data
    x = torch.ones(1, dtype=torch.float64)
    for t in scheduler.timesteps:
        noise = (1 - keep[t]).sqrt() * x / variance[t]
        x = scheduler.step(noise, t, x).prev_sample
    return float(x / (variance[0] / variance[scheduler.timesteps[0]]).sqrt() - 1)


errors = {n: error(n) for n in (12, 13, 14, 15, 16, 20, 25, 30, 40)}
for n, e in errors.items():
    print(f"{n} steps: relative error {e:+.4f}")
still = abs(errors[15]) > 1.4 * abs(errors[14]) and abs(errors[14]) < abs(errors[13])
sys.exit(0 if still else "the error goes on falling at 15 steps")
EOF
