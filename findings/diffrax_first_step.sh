#!/usr/bin/env bash
# Guess: dt0=None chooses the first step from the field and the tolerances, as its documentation
# says.
#
# Instead: the choice is made for an ODETerm only, and diffeqsolve has wrapped the term in another
# class by then. Every solve begins with 0.01, whatever the field: the steps are those of dt0=0.01
# to the bit, 0.01 is too long by far for a field of rate 1000 and 10 times too short for one of
# rate 0.001. The controller itself, called by hand, does choose.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2" "diffrax==0.7.2"
venv/bin/python - <<'EOF'
import sys
from importlib.metadata import version

import diffrax
import jax.numpy as jnp
import numpy as np

print("jax", version("jax"), "diffrax", version("diffrax"))
control, still = diffrax.PIDController(rtol=1e-6, atol=1e-6), True
for rate in (0.001, 1.0, 1000.0):
    term = diffrax.ODETerm(lambda t, y, args: -rate * y)

    def solve(dt0):
        save = diffrax.SaveAt(steps=True)
        return diffrax.diffeqsolve(
            term,
            diffrax.Tsit5(),
            0.0,
            1.0,
            dt0,
            jnp.ones(1),
            saveat=save,
            stepsize_controller=control,
        )

    def field(terms, t, y, args):
        return terms.vf(t, y, args)

    chosen, _ = control.init(term, 0.0, 1.0, jnp.ones(1), None, None, field, jnp.float32(5))
    none, fixed = solve(None), solve(0.01)
    same = bool(np.array_equal(none.ts, fixed.ts))
    print(
        f"rate {rate}: steps as with dt0=0.01: {same}, first accepted {float(none.ts[0]):.6f},",
        end=" ",
    )
    print(f"rejected {int(none.stats['num_rejected_steps'])};", end=" ")
    print(f"the controller alone: {float(chosen):.6f}")
    still &= same and abs(float(chosen) - 0.01) > 1e-3
sys.exit(0 if still else "dt0=None depends on the field")
EOF
