"""FID's Inception network against the same one in plain torch, from its weights alone.

The layers' shapes tell their kernels; what pads, strides and pools is written here once
more, as pytorch-fid does it. `tests/test_inception.py` holds figures of
that program itself.
"""

import numpy as np
import pytest

from bns_jax.models import inception
from tests.fixtures import inception as theirs

torch = pytest.importorskip("torch", reason="parity needs pip install -e '.[parity]'")

from torch.nn import functional as F  # noqa: E402


class Network:
    """The layers of a weights file by name."""

    def __init__(self, weights):
        self.weights = {name: torch.tensor(array) for name, array in weights.items()}

    def conv(self, x, name, stride=1, pad=True):
        kernel = self.weights[f"{name}.conv.weight"]
        padding = [side // 2 if pad else 0 for side in kernel.shape[2:]]
        statistics = [
            self.weights[f"{name}.bn.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        ]
        x = F.conv2d(x, kernel, stride=stride, padding=padding)
        return F.relu(F.batch_norm(x, *statistics, eps=1e-3))

    def chain(self, x, name, count, shrink=False):
        for number in range(1, count + 1):
            last = shrink and number == count
            x = self.conv(x, f"{name}_{number}", 2 if last else 1, not last)
        return x

    def pooled(self, x, name, largest=False):
        if largest:
            x = F.max_pool2d(x, 3, 1, 1)
        else:
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.conv(x, f"{name}.branch_pool")

    def wide(self, x, name, branches):
        """A block that keeps height and width: 1x1, chains, a pool."""
        parts = [self.conv(x, f"{name}.branch1x1")]
        parts += [self.chain(x, f"{name}.branch{b}", n) for b, n in branches.items()]
        return torch.cat([*parts, self.pooled(x, name)], 1)

    def forked(self, x, name, largest):
        """One of the last two blocks, whose chains end side by side."""
        parts = [self.conv(x, f"{name}.branch1x1")]
        for branch, count in {"branch3x3": 1, "branch3x3dbl": 2}.items():
            stem = self.chain(x, f"{name}.{branch}", count)
            parts += [
                self.conv(stem, f"{name}.{branch}_{count + 1}{side}") for side in "ab"
            ]
        return torch.cat([*parts, self.pooled(x, name, largest)], 1)

    def __call__(self, x):
        x = self.conv(x, "Conv2d_1a_3x3", 2, pad=False)
        x = self.conv(x, "Conv2d_2a_3x3", pad=False)
        x = F.max_pool2d(self.conv(x, "Conv2d_2b_3x3"), 3, 2)
        x = self.conv(x, "Conv2d_3b_1x1")
        x = F.max_pool2d(self.conv(x, "Conv2d_4a_3x3", pad=False), 3, 2)
        for letter in "bcd":
            x = self.wide(x, f"Mixed_5{letter}", {"5x5": 2, "3x3dbl": 3})
        x = torch.cat(
            [
                self.conv(x, "Mixed_6a.branch3x3", 2, pad=False),
                self.chain(x, "Mixed_6a.branch3x3dbl", 3, shrink=True),
                F.max_pool2d(x, 3, 2),
            ],
            1,
        )
        for letter in "bcde":
            x = self.wide(x, f"Mixed_6{letter}", {"7x7": 3, "7x7dbl": 5})
        x = torch.cat(
            [
                self.chain(x, "Mixed_7a.branch3x3", 2, shrink=True),
                self.chain(x, "Mixed_7a.branch7x7x3", 4, shrink=True),
                F.max_pool2d(x, 3, 2),
            ],
            1,
        )
        x = self.forked(x, "Mixed_7b", largest=False)
        x = self.forked(x, "Mixed_7c", largest=True)
        return torch.mean(x, (2, 3))


@pytest.mark.exhaustive
@pytest.mark.parametrize("shape", [(1, 32, 32, 3), (1, 331, 310, 3)])
def test_features(shape):
    weights = theirs.random_weights(theirs.read()["shapes"])
    images = np.random.default_rng(2).uniform(-1, 1, shape).astype(np.float32)
    channels_first = torch.tensor(images.transpose(0, 3, 1, 2))
    resized = F.interpolate(
        channels_first, size=(299, 299), mode="bilinear", align_corners=False
    )
    with torch.no_grad():
        expected = Network(weights)(resized).numpy()
    got = np.asarray(inception.features(inception.convert(weights))(images))
    assert np.max(np.abs(got - expected)) / np.max(np.abs(expected)) < 1e-5
