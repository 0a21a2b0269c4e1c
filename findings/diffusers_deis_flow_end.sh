#!/usr/bin/env bash
# Guess: a flow whose data is one point has a constant velocity, so every solver made with
# use_flow_sigmas=True, of any order and with any number of steps, ends at the point.
#
# Instead: DEIS ends halfway. Its last level is repeated instead of being followed by 0, so the last
# evaluation moves nothing: 4 steps with flow_shift=3 stop at noise level 0.5, at 1.5 where the data
# is 2. DPM-Solver and UniPC arrive, up to 1e-3, though all three use other levels.
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
noise, data, end = 1.0, 2.0, {}
for name in ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep"):
    scheduler = getattr(diffusers, name + "Scheduler")(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    scheduler.set_timesteps(4)
    x, path = torch.full((1, 1, 1, 1), noise), []
    for t in scheduler.timesteps:
        x = scheduler.step(torch.full_like(x, noise - data), t, x).prev_sample
        path.append(round(float(x), 4))
    end[name] = path[-1]
    print(f"{name:18s} levels {[round(float(s), 4) for s in scheduler.sigmas]} samples {path}")
still = abs(end["DEISMultistep"] - 1.5) < 0.01 and abs(end["DPMSolverMultistep"] - 2) < 0.01
sys.exit(0 if still else "DEIS arrives at the data")
EOF
