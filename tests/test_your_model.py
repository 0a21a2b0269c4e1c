"""docs/your_model.md, run: from a network of each kind to a solver that leads.

Each network is trained on the digits for a few seconds, by flow matching or as a DDPM;
its examples are those of the page, of at most ten lines, run as they stand there.
"""

import functools
import pathlib
import re

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import bns_jax
from bns_jax import (
    conventions,
    distill,
    ground_truth,
    pairs,
    schedulers,
    solvers,
    velocity,
)
from experiments.data import digits
from tests.laws import first_of

pytestmark = pytest.mark.filterwarnings("default")

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "your_model.md"
WIDTH, STEPS = 96, 300
ALPHAS_CUMPROD = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))


@pytest.fixture(scope="module", autouse=True)
def as_users_have_it():
    """float32 and JAX's own promotion of dtypes: networks rely on both."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


@pytest.fixture(scope="module")
def data():
    images, _ = digits.load(held_out=0)
    return images.pixels.reshape(len(images.pixels), -1).astype(np.float32)


def embed(t):
    """Sines and cosines of times in [0, 1], (B, 16)."""
    angles = jnp.asarray(t)[:, None] * 2.0 ** jnp.arange(8)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def flow_matching(call):
    """The loss of a network that predicts the velocity of the cond-OT path."""

    def loss(weights, x1, x0, t):
        x_t = t[:, None] * x1 + (1 - t[:, None]) * x0
        return jnp.mean((call(weights, x_t, t) - (x1 - x0)) ** 2)

    return loss


def ddpm(call):
    """The loss of a network that predicts noise at one of 1,000 integer steps."""

    def loss(weights, x1, x0, t):
        k = jnp.floor(t * 1000).astype(jnp.int32)
        alpha_bar = jnp.asarray(ALPHAS_CUMPROD, jnp.float32)[k][:, None]
        x_t = jnp.sqrt(alpha_bar) * x1 + jnp.sqrt(1 - alpha_bar) * x0
        return jnp.mean((call(weights, x_t, k) - x0) ** 2)

    return loss


def train(loss, weights, data):
    """Some hundred steps of Adam."""
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))

    @jax.jit
    def step(weights, state, key):
        rows, noise, time = jax.random.split(key, 3)
        x1 = jnp.asarray(data)[jax.random.randint(rows, (128,), 0, len(data))]
        x0 = jax.random.normal(noise, x1.shape)
        t = jax.random.uniform(time, (128,))
        updates, state = tx.update(jax.grad(loss)(weights, x1, x0, t), state)
        return optax.apply_updates(weights, updates), state

    state = tx.init(weights)
    for key in jax.random.split(jax.random.key(0), STEPS):
        weights, state = step(weights, state, key)
    return weights


def by_nnx(data):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(64 + 16, WIDTH, rngs=rngs)
            self.second = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
            self.last = nnx.Linear(WIDTH, 64, rngs=rngs)

        def __call__(self, x, t):
            h = nnx.gelu(self.first(jnp.concatenate([x, embed(t)], axis=1)))
            return self.last(nnx.gelu(self.second(h)))

    graph, weights = nnx.split(Net(nnx.Rngs(0)))
    loss = flow_matching(lambda weights, x, t: nnx.merge(graph, weights)(x, t))
    return {"net": nnx.merge(graph, train(loss, weights, data))}


def by_equinox(data):
    net = eqx.nn.MLP(65, 64, WIDTH, 2, activation=jax.nn.gelu, key=jax.random.key(0))
    weights, static = eqx.partition(net, eqx.is_array)

    def call(weights, x, t):
        inputs = jnp.concatenate([x, t[:, None]], axis=1)
        return jax.vmap(eqx.combine(weights, static))(inputs)

    return {"net": eqx.combine(train(flow_matching(call), weights, data), static)}


def by_linen(data):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, steps):
            h = jnp.concatenate([x, embed(steps / 1000)], axis=1)
            for _ in range(2):
                h = nn.gelu(nn.Dense(WIDTH)(h))
            return nn.Dense(64)(h)

    net = Net()
    weights = net.init(jax.random.key(0), data[:1], jnp.zeros(1, jnp.int32))
    weights = train(ddpm(net.apply), weights, data)
    return {"net": net, "weights": weights, "alphas_cumprod": ALPHAS_CUMPROD}


def by_haiku(data):
    sizes = {"first": (80, WIDTH), "second": (WIDTH, WIDTH), "last": (WIDTH, 64)}

    def apply(weights, x, t):
        h = jnp.concatenate([x, embed(t)], axis=1)
        for name in ("first", "second"):
            h = jax.nn.gelu(h @ weights[name]["w"] + weights[name]["b"])
        return h @ weights["last"]["w"] + weights["last"]["b"]

    rng = np.random.default_rng(0)
    weights = {
        name: {
            "w": jnp.asarray(rng.normal(size=size) / np.sqrt(size[0]), jnp.float32),
            "b": jnp.zeros(size[1]),
        }
        for name, size in sizes.items()
    }
    return {"apply": apply, "weights": train(flow_matching(apply), weights, data)}


def by_function(data):
    made = by_haiku(data)
    apply, weights = made["apply"], made["weights"]

    def vf(t, x):
        return apply(weights, x, jnp.full((len(x),), t))

    return {"vf": vf}


KINDS = {
    "nnx": by_nnx,
    "equinox": by_equinox,
    "linen": by_linen,
    "haiku": by_haiku,
    "function": by_function,
}


def example(kind):
    found = re.search(
        rf"<!-- example: {kind} -->\n```python\n(.*?)```", PAGE.read_text(), re.S
    )
    lines = [line for line in found[1].splitlines() if line.strip()]
    assert len(lines) <= 10
    return found[1]


def halved(lines):
    """The same lines, on half of the pairs and with half of the evaluations."""
    for there, here in (
        ("520, 256)", "260, 128)"),
        ("nfe=8", "nfe=4"),
        ("params[8]", "params[4]"),
    ):
        assert there in lines
        lines = lines.replace(there, here)
    return lines


def small(kind):
    """A network of a kind that is not trained, and how it is called."""
    if kind == "nnx":
        net = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        return net, lambda net, inputs: net(inputs)
    if kind == "equinox":
        net = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
        return net, lambda net, inputs: jax.vmap(net)(inputs)
    return {"w": jnp.ones((3, 2))}, lambda net, inputs: inputs @ net["w"]


@pytest.mark.parametrize("kind", first_of(["nnx", "equinox", "haiku"], "equinox"))
def test_a_network_is_an_argument_of_what_is_compiled(kind):
    net, apply = small(kind)

    def call(net, t, x):
        return apply(net, jnp.concatenate([x, jnp.full((len(x), 1), t)], axis=1))

    x0 = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)
    scope = {"bns_jax": bns_jax, "jax": jax, "eqx": eqx, "call": call, "net": net}
    scope |= {"params": solvers.euler(2), "x0": x0}
    jit = "eqx.filter_jit" if kind == "equinox" else "jax.jit"
    said = rf"`({re.escape(jit)}\(bns_jax\.sample\)\(params, .*\))`"
    (compiled,) = re.findall(said, PAGE.read_text())
    expected = bns_jax.sample(scope["params"], functools.partial(call, net), x0)
    np.testing.assert_allclose(eval(compiled, scope), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.exhaustive
def test_the_example_that_compares_runs_and_pairs_of_ones_own_have_conditions(capsys):
    x0 = np.linspace(-1.0, 1.0, 8, dtype=np.float32).reshape(4, 2)
    scope = {"bns_jax": bns_jax, "ground_truth": ground_truth, "pairs": pairs}
    scope |= {"more": x0, "vf": lambda t, x: -x}
    scope["found"] = bns_jax.finding.Found(None)
    scope["found"][8] = distill.Distilled(solvers.euler(8), (), 0, 0, 0.0)
    exec(example("compare"), scope)
    assert "bns " in capsys.readouterr().out
    scope |= {"x0": x0, "x1": x0, "labels": np.arange(4)}
    (made,) = re.findall(r"`(pairs\.Pairs\.of\(x0, x1, args.*\))`", PAGE.read_text())
    np.testing.assert_array_equal(eval(made, scope).args[0], np.arange(4))


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_ten_lines_lead_to_a_solver_that_beats_the_catalogue(kind, data, capsys):
    noise = np.random.default_rng(0).normal(size=(520, 64)).astype(np.float32)
    scope = {
        "jax": jax,
        "jnp": jnp,
        "bns_jax": bns_jax,
        "ground_truth": ground_truth,
        "pairs": pairs,
        "schedulers": schedulers,
        "velocity": velocity,
        "x0": noise[:388],
        **KINDS[kind](data),
    }
    exec(halved(example(kind)), scope)
    assert "best common solver" in capsys.readouterr().out
    assert np.all(np.isfinite(scope["x1"]))

    scheduler = scope.get("scheduler", schedulers.cond_ot())
    check = conventions.check(scope["vf"], scheduler, data[:256])
    assert check.as_trained, str(check)
    test = ground_truth.pairs(scope["vf"], noise[388:])
    compared = bns_jax.compare(
        scope["vf"], test, 4, scheduler=scheduler, also={"bns": scope["found"].params}
    )
    assert compared.best(4).solver == "bns", str(compared)
    others = [row for row in compared.results if row.solver != "bns"]
    best = max(row.mean for row in others if np.isfinite(row.mean))
    assert best < 60
    assert compared.best(4).low > best
