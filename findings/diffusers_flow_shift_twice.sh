#!/usr/bin/env bash
# Guess: FlowMatchEulerDiscreteScheduler(shift=3) shifts its noise levels once, so
# set_timesteps(1000) gives the 1000 levels of its constructor, and set_timesteps(sigmas=s.sigmas)
# gives them back.
#
# Instead: the constructor shifts, set_timesteps begins at the ends already shifted and shifts
# again, and given sigmas are shifted as well. The last level of any schedule is 0.0089 where the
# constructor has 0.0030, and a schedule that is saved and given back is another one.
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
from diffusers import FlowMatchEulerDiscreteScheduler

print("torch", version("torch"), "diffusers", version("diffusers"))
scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
made = scheduler.sigmas.clone()
scheduler.set_timesteps(1000)
set_again = scheduler.sigmas[:-1]
print("constructor: last level", float(made[-1]), " set_timesteps(1000):", float(set_again[-1]))
scheduler.set_timesteps(4)
once = scheduler.sigmas[:-1].clone()
scheduler.set_timesteps(sigmas=once.tolist())
twice = scheduler.sigmas[:-1]
print("set_timesteps(4):          ", [round(float(s), 4) for s in once])
print("set_timesteps(sigmas=that):", [round(float(s), 4) for s in twice])
still = float(set_again[-1]) > 2.5 * float(made[-1]) and float(twice[1] - once[1]) > 0.05
sys.exit(0 if still else "the shift is applied once")
EOF
