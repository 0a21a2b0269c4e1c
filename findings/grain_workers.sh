#!/usr/bin/env bash
# Guess: the number of worker processes changes how fast grain delivers batches, not which ones.
#
# Instead: IterDataset.batch before mp_prefetch runs inside each worker, on the worker's share of
# the records. Batches have other members for other counts, and with drop_remainder each worker
# drops its own rest: of 20 records in batches of 8, no worker process gives 2 batches and 3 give
# none, so the loop over the data ends before it begins. MapDataset.batch, which comes before the
# split, gives the same batches for every count.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "grain==0.2.18"
cat >check.py <<'EOF'
import sys
from importlib.metadata import version

import grain
from absl import flags


def batches(where, workers):
    records = grain.MapDataset.range(20).shuffle(seed=0)
    if where == "IterDataset":
        data = records.to_iter_dataset().batch(8, drop_remainder=True)
    else:
        data = records.batch(8, drop_remainder=True).to_iter_dataset()
    if workers:
        data = data.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=workers))
    return [[int(i) for i in batch] for batch in data]


if __name__ == "__main__":
    flags.FLAGS([sys.argv[0]])
    print("grain", version("grain"))
    seen = {}
    for where in ("MapDataset", "IterDataset"):
        for workers in (0, 2, 3):
            seen[where, workers] = batches(where, workers)
            print(f"{where}.batch, {workers} workers: {seen[where, workers]}", flush=True)
    still = seen["MapDataset", 0] == seen["MapDataset", 2] == seen["MapDataset", 3]
    still &= len(seen["IterDataset", 0]) == 2 and not seen["IterDataset", 3]
    sys.exit(0 if still else "the batches depend on the workers otherwise")
EOF
venv/bin/python check.py
