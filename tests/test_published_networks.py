"""The published architectures against what their own implementations gave.

`fixtures/checkpoints/README.md` says how the fixtures were made.
"""

import functools
import gzip
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax.models import convert, edm
from bns_jax.models.edm import EDMConfig
from bns_jax.models.published import PUBLISHED
from tests.laws import first_of
from tests.published import FILES, FIXTURES, Fixture, error


@pytest.mark.parametrize("name", first_of(FILES, "edm_ddpmpp_tiny"))
def test_outputs_are_those_of_the_original(name):
    fixture = Fixture(name)
    got = fixture.output()
    assert got.dtype == np.float32
    assert error(got, fixture.expected) < 1e-4


LAYOUTS = json.loads(gzip.decompress((FIXTURES / "layouts.json.gz").read_bytes()))


@functools.cache
def layout_of(network):
    """Several checkpoints share one architecture."""
    return convert.layout(network.shapes())


def test_every_published_checkpoint_has_a_layout():
    assert set(LAYOUTS) == set(PUBLISHED)


@pytest.mark.parametrize("name", first_of(LAYOUTS, "edm_ffhq_ve"))
def test_every_tensor_of_the_full_size_is_accounted_for(name):
    entry = PUBLISHED[name]
    layout = layout_of(entry.network(jnp.float32, remat=False))
    assert sum(map(math.prod, layout.values())) == entry.parameters
    if isinstance(entry.config, EDMConfig):
        layout = layout | edm.unused(entry.config, layout)
    assert layout == {key: tuple(shape) for key, shape in LAYOUTS[name].items()}
