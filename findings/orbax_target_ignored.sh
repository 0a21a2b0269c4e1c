#!/usr/bin/env bash
# Guess: restoring with a target of NumPy arrays gives arrays like the target's, or an error.
#
# Instead: the target's shape is ignored (a (4, 2) target receives (2, 3)), while its dtype is
# obeyed at any cost: float32 into int8 truncates and wraps (300.2 becomes 44 here), and 1e6 in
# float16 is infinite. The same mismatch in shape with a target of JAX arrays raises.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "jax==0.10.2" "orbax-checkpoint==0.12.8"
venv/bin/python - <<'EOF'
import os
import sys
from importlib.metadata import version

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint

print("jax", version("jax"), "orbax-checkpoint", version("orbax-checkpoint"))
checkpointer = orbax.checkpoint.StandardCheckpointer()


def round_trip(name, array, target):
    path = os.path.abspath(name)
    checkpointer.save(path, {"w": array})
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(path, {"w": target})["w"]
    print(
        f"target {target.dtype}{target.shape}: {restored.dtype}{restored.shape}", restored.tolist()
    )
    return restored


saved = np.arange(6, dtype=np.float32).reshape(2, 3)
still = round_trip("shape", saved, np.zeros((4, 2), np.float32)).shape == (2, 3)
outlier = np.array([1.7, 300.2, 1e6], np.float32)
still &= round_trip("int8", outlier, np.zeros(3, np.int8)).dtype == np.int8
still &= bool(np.isinf(round_trip("float16", outlier, np.zeros(3, np.float16))[2]))
try:
    round_trip("jax", saved, jnp.zeros((4, 2)))
    still = False
except ValueError as error:
    print("JAX target:", str(error).split(". ")[0])
sys.exit(0 if still else "the target is treated otherwise")
EOF
