"""Laws of what devices send each other: a few numbers of the solver, never samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bns_jax import ns, parallel
from experiments.tools import programs
from experiments.tools.collectives import (
    Collective,
    bytes_per_call,
    collectives,
    has_float64,
)

from .laws import first_of

NFE, DIMENSION, BATCH = 2, 64, 1024


def text_of(function, *args):
    return jax.jit(function).lower(*args).compile().as_text()


@pytest.fixture(scope="module")
def batch():
    return parallel.shard(np.ones((16, 4), np.float32), parallel.data_mesh())


def test_a_sum_over_the_batch_is_one_reduction_of_its_size(batch):
    (found,) = collectives(text_of(lambda x: jnp.sum(x, axis=0), batch))
    assert found == Collective("all-reduce", 4 * 4, 1)


def test_what_stays_on_its_device_sends_nothing(batch):
    text = text_of(lambda x: jnp.sum(x * x, axis=1), batch)
    assert collectives(text) == []
    assert not has_float64(text)
    assert has_float64(text_of(lambda x: x.astype(jnp.float64), batch))


def test_a_loop_counts_as_often_as_it_runs(batch):
    def total(x):
        def body(carry, _):
            return carry / 2 + jnp.sum(x * carry[None], axis=0), None

        return jax.lax.scan(body, x[0], length=5)[0]

    text = text_of(total, batch)
    in_loop = [one for one in collectives(text) if one.times == 5]
    assert sum(one.bytes for one in in_loop) == 16


def test_a_loop_whose_length_the_data_decide_may_send_anything(batch):
    def until(x):
        return jax.lax.while_loop(
            lambda carry: jnp.sum(carry) < 9,
            lambda carry: carry + jnp.sum(x * carry[None], axis=0),
            x[0],
        )

    assert bytes_per_call(collectives(text_of(until, batch))) == np.inf


def test_gathering_is_told_from_reducing(batch):
    whole = NamedSharding(parallel.data_mesh(), PartitionSpec())
    text = text_of(lambda x: jax.lax.with_sharding_constraint(x, whole), batch)
    (found,) = collectives(text)
    assert (found.kind, found.bytes) == ("all-gather", 16 * 4 * 4)


def field(weights, t, x, label):
    return jnp.tanh(x @ weights) * (1 + label[:, None])


@pytest.fixture(scope="module")
def lowered():
    """The programs of a pod. One number of each sample would be beyond every limit."""
    shape = jax.ShapeDtypeStruct
    return programs.lowered(
        jax.tree_util.Partial(field, shape((DIMENSION, DIMENSION), jnp.float32)),
        shape((BATCH, DIMENSION), jnp.float32),
        (shape((BATCH,), jnp.float32),),
        parallel.data_mesh(),
        NFE,
        double=True,
    )


@pytest.mark.parametrize(
    "name", first_of(["sample", "Gauss-Newton step", "Adam step"], "Gauss-Newton step")
)
def test_only_the_numbers_of_the_solver_cross_between_devices(lowered, name):
    found = collectives(lowered[name].compile().as_text())
    assert {one.kind for one in found} <= {"all-reduce"}
    limit = programs.traffic_limit(name, ns.num_params(NFE))
    assert bytes_per_call(found) <= limit < 4 * BATCH
