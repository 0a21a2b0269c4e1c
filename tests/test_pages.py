"""The pages of CONTRIBUTING.md on what is new, each followed to the letter."""

import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import distill, families, ground_truth, metrics, ns, schedulers, solvers
from bns_jax.models import published
from experiments.models import catalogue
from tests import programs, test_public

PAGES = (
    "A new solver",
    "A new family",
    "A new objective",
    "A published checkpoint",
    "A new experiment",
)
FIELD = jax.tree_util.Partial(lambda t, x, *args: -x * (1 + t))


def page(name):
    text = (test_public.ROOT / "CONTRIBUTING.md").read_text()
    return re.search(rf"## {name}\n.*?(?=\n## )", text, re.DOTALL)[0]


def run_code(monkeypatch, title):
    """The names that the code of a page defines, which imports all that it needs."""
    (code,) = re.findall(r"```python\n(.*?)```", page(title), re.DOTALL)
    module = types.ModuleType(f"page_{len(title)}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, module.__dict__)
    return module


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_short(name):
    assert len(page(name).splitlines()) <= 40


def make_pairs(count, *args, seed=0):
    x0 = np.random.default_rng(seed).normal(size=(count, 2, 2))
    return ground_truth.pairs(FIELD, x0, *args, rtol=1e-6, atol=1e-6)


@pytest.mark.exhaustive
def test_a_family(monkeypatch):
    made = run_code(monkeypatch, "A new family").row_scaled
    start = solvers.euler(4)
    family = made(start)
    for got, expected in zip(family.to_params(family.theta), start, strict=True):
        np.testing.assert_array_equal(got, expected)
    ns.validate(family.to_params(family.theta * 3.0))
    train, validation = make_pairs(16), make_pairs(16, seed=1)
    for one, optimizer, least in (
        # For x' = -(1 + t) x a row's best factor is not 1.
        (family, distill.gauss_newton(), 20),
        (families.constrained(family, 1), distill.adam(1e-2), 0),
    ):
        optimizer = optimizer.replace(batch=16, iterations=3)
        fitted = distill.fit(one, FIELD, train, validation, optimizer=optimizer)
        assert fitted.val_metric >= fitted.history[0].val_metric + least
    (told,) = re.findall(r"`optimizer=(.*)`", page("A new family"))
    assert eval(told, {"distill": distill}).iterations == 2_000
    scaled = families.preconditioned(family, schedulers.cond_ot(), 2.0)
    ns.validate(scaled.to_params(scaled.theta))


@pytest.mark.exhaustive
@pytest.mark.parametrize("optimizer", [distill.gauss_newton(), distill.adam(1e-2)])
def test_an_objective(monkeypatch, optimizer):
    loss = run_code(monkeypatch, "A new objective").masked_error
    mask = np.zeros((16, 2, 2))
    mask[:, 0] = 1.0
    train, validation = make_pairs(16, mask), make_pairs(16, mask, seed=1)
    fitted = distill.fit(
        families.bns(solvers.euler(2)),
        FIELD,
        train,
        validation,
        optimizer=optimizer.replace(batch=16, iterations=2, evaluate_every=1),
        objective=loss,
        metric=lambda x_n, batch: -loss(x_n, batch),
    )
    x = ns.sample(fitted.params, FIELD, validation.x0, mask)
    expected = -float(np.mean(np.asarray(x - validation.x1)[:, 0] ** 2))
    assert fitted.val_metric == pytest.approx(expected, rel=1e-6)
    assert fitted.val_metric > fitted.history[0].val_metric


@pytest.mark.exhaustive
def test_a_checkpoint(monkeypatch):
    monkeypatch.setattr(published, "PUBLISHED", dict(published.PUBLISHED))
    entry = run_code(monkeypatch, "A published checkpoint")
    made = entry.PUBLISHED["adm64_small"]
    shapes = made.network(jnp.float32, remat=False).shapes()
    count = sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes))
    assert count == made.parameters
    assert made.prediction == "epsilon"


@pytest.mark.exhaustive
def test_an_experiment(monkeypatch, tmp_path, capsys):
    made = run_code(monkeypatch, "A new experiment")
    config = made.OneConfig(
        model="mixture",
        nfe=(2,),
        test_pairs=4,
        rtol=1e-3,
        atol=1e-3,
        devices=1,
        workdir=str(tmp_path),
    )
    with programs.usual():
        made.main(config)
        model = catalogue.mixture(0.2)
        x0, args = model.draw(4, np.random.default_rng((0, 2)))
        test = ground_truth.pairs(model, x0, *args, rtol=1e-3, atol=1e-3)
        x = ns.sample(
            solvers.ddim(2, model.scheduler), model.field, test.x0, *test.args
        )
        expected = np.mean(metrics.psnr(x, test.x1))
    assert f"2 {expected:.2f} dB" in capsys.readouterr().out
    assert "--solver=ddim" in (tmp_path / "run.flags").read_text().splitlines()
