"""Laws of the runners: a solver file runs without JAX, to the same sample."""

import ast
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import bns_jax
from bns_jax import NSParams, interchange, schedulers, solvers, velocity
from tests.laws import random_params

RUNNER = Path(bns_jax.__file__).parents[1] / "runners" / "numpy_runner.py"
DTYPES = ("float64", "float32")
NOISE, WEIGHTS = (5, 6), (6, 6)

PROGRAM = """
import pathlib, sys
for name in ("jax", "jaxlib", "bns_jax", "scipy"):
    sys.modules[name] = None  # To import one of them is an error now.
import numpy as np
import numpy_runner

folder = pathlib.Path(sys.argv[1])
given = dict(np.load(folder / "given.npz"))

def field(t, x, label):
    assert t.dtype == x.dtype
    turned = np.sin(x @ given["weights"].astype(x.dtype))
    return (1 + label[:, None].astype(x.dtype)) * turned - t * x

for dtype in ("float64", "float32"):
    x0 = given["noise"].astype(dtype)
    made = {}
    for path in folder.glob("*.json"):
        solver = numpy_runner.load(path)
        made[path.stem] = numpy_runner.sample(solver, field, x0, given["label"])
    np.savez(folder / f"{dtype}.npz", **made)
"""


def field(weights):
    def vf(t, x, label):
        turned = jnp.sin(x @ weights.astype(x.dtype))
        return (1 + label[:, None].astype(x.dtype)) * turned - t * x

    return vf


@pytest.fixture(scope="module")
def chosen():
    """A random solver for some NFE, and the whole catalogue at one."""
    rng = np.random.default_rng(0)
    every = {f"random_{n}": random_params(rng, n) for n in (1, 2, 3, 16)}
    return every | solvers.build_all(solvers.ALL, 8, schedulers.vp())


@pytest.fixture(scope="module")
def run_without_jax(chosen, tmp_path_factory):
    """What they start from, and what the runner made of it in both dtypes."""
    folder, rng = tmp_path_factory.mktemp("runner"), np.random.default_rng(1)
    given = {
        "noise": rng.normal(size=NOISE),
        "weights": rng.normal(size=WEIGHTS) / 4,
        "label": rng.uniform(size=NOISE[0]),
    }
    np.savez(folder / "given.npz", **given)
    for name, params in chosen.items():
        interchange.save(folder / f"{name}.json", params)
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(RUNNER.parent)},
    )
    return given, {dtype: np.load(folder / f"{dtype}.npz") for dtype in DTYPES}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_runner_agrees_with_sample_on_one_and_the_same_field(
    chosen, run_without_jax, dtype
):
    given, made = run_without_jax
    vf = field(given["weights"])
    x0 = given["noise"].astype(dtype)
    assert set(made[dtype]) == set(chosen)
    for name, params in chosen.items():
        _, a, b = params = NSParams(*(np.asarray(leaf, dtype) for leaf in params))
        expected = bns_jax.sample(params, vf, x0, given["label"])
        got = made[dtype][name]
        assert got.dtype == expected.dtype == dtype
        size = np.max(np.abs(a) + np.sum(np.abs(b), axis=1))
        tolerance = {"float64": 1e-12, "float32": 1e-6 * size}[dtype]
        bound = tolerance * np.max(np.abs(expected))
        np.testing.assert_allclose(got, expected, rtol=0, atol=bound, err_msg=name)


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("numpy_runner", RUNNER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_runner_is_short_and_needs_numpy_alone():
    text = RUNNER.read_text()
    assert len(text.splitlines()) <= 60
    imported = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import)]
    names = {alias.name for node in imported for alias in node.names}
    assert names - set(sys.stdlib_module_names) == {"numpy"}


def test_the_runner_sums_16_bits_in_32(runner, tmp_path, rng):
    """Euler on u = 1: 256 steps of 1/256 reach 1 exactly, which float16 sums miss."""
    interchange.save(tmp_path / "s.json", solvers.euler(256))
    solver = runner.load(tmp_path / "s.json")
    for dtype in (np.float16, jnp.bfloat16):
        noise = np.zeros(3, dtype)
        x1 = runner.sample(solver, lambda t, x: np.ones_like(x), noise)
        assert x1.dtype == dtype
        np.testing.assert_array_equal(x1.astype(float), np.ones(3))


WRONG_ANSWERS = {
    "one number per entry": (lambda x: np.ones(3), r"\(3,\)"),
    "a mean": (lambda x: x.mean(1, keepdims=True), r"\(5, 1\)"),
    "an axis more": (lambda x: np.ones((5, 5, 3)), r"\(5, 5, 3\)"),
    "a number": (lambda x: 1.0, r"\(\)"),
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_the_runner_refuses_a_velocity_of_another_shape(runner, name):
    answer, got = WRONG_ANSWERS[name]
    solver = solvers.euler(2)._asdict()
    with pytest.raises(ValueError, match=rf"expected shape \(5, 3\), got {got}$"):
        runner.sample(solver, lambda t, x: answer(x), np.zeros((5, 3)))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex128"])
def test_the_runner_refuses_noise_that_it_would_cut(runner, dtype):
    solver, noise = solvers.euler(2)._asdict(), np.zeros((5, 3), dtype)
    with pytest.raises(ValueError, match=f"floating-point numbers, got {dtype}$"):
        runner.sample(solver, lambda t, x: x, noise)


def sealed(record):
    """A file's text with its checksum, as the schema describes it."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True)
    return json.dumps(record | {"sha256": hashlib.sha256(text.encode()).hexdigest()})


NAN = float("nan")
FAULTS = {
    "another format": (lambda r: sealed(r | {"format": "x/4"}), "expected format"),
    "an older one": (lambda r: sealed(r | {"format": "bns_jax.solver/2"}), "solver/3"),
    "no record": (lambda r: "[1, 2]", "expected format"),
    "no JSON": (lambda r: "{", "Expecting"),
    "another number": (lambda r: json.dumps(r | {"a": [1.0, 2.0]}), "is damaged"),
    "another purpose": (lambda r: json.dumps(r | {"prediction": "v"}), "is damaged"),
    "no checksum": (
        lambda r: json.dumps({k: v for k, v in r.items() if k != "sha256"}),
        "is damaged",
    ),
    "NaN": (lambda r: sealed(r | {"a": [1.0, NAN]}), "not JSON compliant"),
    "too few": (lambda r: sealed(r | {"a": [1.0]}), "expected n times"),
    "too many": (
        lambda r: sealed(r | dict.fromkeys(("times", "a", "b"), [1.0] * 1001)),
        "n <= 1000",
    ),
    "a short row": (lambda r: sealed(r | {"b": [[0.5], [0.5]]}), "reshape"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_solver_is_refused_by_runner_and_library(runner, tmp_path, fault):
    change, message = FAULTS[fault]
    path = tmp_path / "s.json"
    interchange.save(path, solvers.euler(2))
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=message):
        runner.load(path)
    with pytest.raises(ValueError, match=str(path)):
        interchange.load(path)


def test_both_take_a_file_that_was_laid_out_anew(runner, tmp_path):
    path = tmp_path / "s.json"
    interchange.save(path, solvers.rk4(4), {"λ": ["ü", 0.1, 1e-300]})
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    for got in (runner.load(path)["b"], interchange.load(path).b):
        np.testing.assert_array_equal(got, solvers.rk4(4).b)


PAGE = RUNNER.parents[1] / "docs" / "solver_files.md"


def test_the_examples_of_the_page_run_one_after_another(
    runner, tmp_path, monkeypatch, rng
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "numpy_runner", runner)
    scheduler, weights = schedulers.cosine(), rng.normal(size=(3, 3)) / 3

    def numpy_field(t, x):
        """The velocity of a linear network of noise on the cosine path."""
        alpha, sigma = np.sin(np.pi / 2 * t), np.sin(np.pi / 2 * (1 - t))
        noise = x @ weights
        data = (x - sigma * noise) / alpha
        return np.pi / 2 * (sigma * data - alpha * noise)

    scope = {
        "interchange": interchange,
        "vf": velocity.from_epsilon(lambda t, x: x @ weights, scheduler),
        "weights": weights,
        "params": solvers.midpoint(8, grid=np.linspace(0.1, 0.9, 5)),
        "numpy_field": numpy_field,
        "x0": rng.normal(size=(4, 3)),
    }
    pattern = r"<!-- example: (\w+) -->\n```python\n(.*?)```"
    examples = dict(re.findall(pattern, PAGE.read_text(), re.S))
    assert list(examples) == ["save", "check", "numpy"]
    for example in examples.values():
        exec(example, scope)
    expected = bns_jax.sample(scope["params"], scope["vf"], scope["x0"])
    np.testing.assert_allclose(scope["x1"], expected, rtol=1e-12)
