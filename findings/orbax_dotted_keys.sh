#!/usr/bin/env bash
# Guess: two leaves at different places of a tree are two entries of a checkpoint.
#
# Instead: the keys on the way to a leaf are joined by dots, so "a.b" and "b" inside "a" share one
# entry. Saving and restoring both succeed, and one leaf comes back with the numbers of the other.
# Keys with dots are common where weights came from PyTorch.
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

import numpy as np
import orbax.checkpoint

print("jax", version("jax"), "orbax-checkpoint", version("orbax-checkpoint"))
tree = {"a.b": np.ones(1), "a": {"b": np.zeros(1)}}
checkpointer = orbax.checkpoint.StandardCheckpointer()
path = os.path.abspath("checkpoint")
checkpointer.save(path, tree)
checkpointer.wait_until_finished()
restored = checkpointer.restore(path, tree)
print("saved   ", tree)
print("restored", restored)
still = restored["a.b"] == restored["a"]["b"]
sys.exit(0 if still else "the two leaves are kept apart")
EOF
