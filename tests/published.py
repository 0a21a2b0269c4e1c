"""Small networks of each published architecture, with random weights.

`python -m tests.published` prints how far each is from its original, and the parameters
of the published sizes.
"""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.models import convert, edm
from bns_jax.models.adm import ADM, ADMConfig
from bns_jax.models.dit import DiT, DiTConfig
from bns_jax.models.edm import EDMConfig, EDMDenoiser
from bns_jax.models.network import Network
from bns_jax.models.pretrained import Pretrained
from bns_jax.models.published import PUBLISHED

# An architecture is traced once, whatever is loaded into it.
Network.shapes = functools.cache(Network.shapes)

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "checkpoints"
KINDS = {
    "adm": (ADM, ADMConfig),
    "edm": (EDMDenoiser, EDMConfig),
    "dit": (DiT, DiTConfig),
    "sit": (DiT, DiTConfig),
}
LEAST = {
    "adm": {
        "image_size": 4,
        "num_classes": 5,
        "width": 32,
        "multipliers": [1],
        "blocks": 1,
        "attention": [],
        "head_channels": 32,
    },
    "edm": {
        "image_size": 4,
        "width": 16,
        "multipliers": [1],
        "blocks": 1,
        "attention": [],
    },
    "dit": {
        "image_size": 4,
        "num_classes": 5,
        "width": 24,
        "depth": 1,
        "heads": 2,
    },
}
LEAST["sit"] = LEAST["dit"]
"""Architectures so small that they compile soon."""
FILES = sorted(path.stem for path in FIXTURES.glob("*.npz"))


def random_tensors(layout, seed):
    """The weights that a fixture was made with; drawn in the order of their names."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name in sorted(layout):
        shape = layout[name]
        values = rng.standard_normal(shape)
        if len(shape) >= 2:
            values /= math.sqrt(math.prod(shape[1:]))
        elif name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        tensors[name] = values.astype(np.float32)
    return tensors


def least(name, seed=0, **changes):
    """The smallest relative of a published checkpoint, and the tensors of its file."""
    config = LEAST[name[:3]] | changes
    network = PUBLISHED[name].changed(config).network(np.float32, remat=False)
    return config, random_tensors(convert.layout(network.shapes()), seed)


@functools.cache
def loaded(name):
    """The smallest relative of a published checkpoint, as from its file."""
    config, tensors = least(name)
    origin = PUBLISHED[name].changed(config)
    network = origin.network(np.float32, remat=False)
    params = jax.device_put(convert.to_flax(tensors, network.shapes()))
    return Pretrained(origin, network, params, origin.scheduler)


class Fixture:
    """What an original implementation gave, and our network with the same weights."""

    def __init__(self, name, **options):
        network, config = KINDS[name.partition("_")[0]]
        stored = np.load(FIXTURES / f"{name}.npz")
        self.values = json.loads(str(stored["config"]))
        lists = {k: tuple(v) for k, v in self.values.items() if isinstance(v, list)}
        self.network = network(config(**{**self.values, **lists}), **options)
        self.given = tuple(jnp.asarray(stored[key]) for key in ("t", "x", "label"))
        self.expected = stored["y"]
        self.shapes = self.network.shapes()
        self.layout = convert.layout(self.shapes)
        extra = {k: v for k, v in self.unused().items() if "filter" not in k}
        self.tensors = random_tensors(self.layout | extra, int(stored["seed"]))
        self.params = convert.to_flax(self.tensors, self.shapes)

    def unused(self):
        config = self.network.config
        is_edm = isinstance(config, EDMConfig)
        return edm.unused(config, self.layout) if is_edm else {}

    def output(self, params=None):
        params = self.params if params is None else params
        out = jax.jit(self.network.apply)({"params": params}, *self.given)
        return np.asarray(out)[..., : self.expected.shape[-1]]


def error(got, expected):
    """The largest over the samples, each relative to its largest entry."""
    axes = (1, 2, 3)
    return np.max(np.max(abs(got - expected), axes) / np.max(abs(expected), axes))


def main():
    for name in FILES:
        fixture = Fixture(name)
        print(f"{name:20} {error(fixture.output(), fixture.expected):.1e}")
    for name, entry in PUBLISHED.items():
        layout = convert.layout(entry.network(jnp.float32, remat=False).shapes())
        count = sum(map(math.prod, layout.values()))
        print(f"{name:24} {len(layout):4} tensors {count:12,} parameters")


if __name__ == "__main__":
    main()
