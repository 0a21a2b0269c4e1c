"""From a weights file of others to solver files: small."""

import csv
import json
import math

import jax
import numpy as np
import pytest

from bns_jax import interchange, parallel
from bns_jax.models import convert, pretrained
from bns_jax.models.published import PUBLISHED
from experiments.job.config import CHECKPOINTS
from experiments.models import catalogue
from tests.published import random_tensors
from tests.test_experiments import contents, experiment
from tests.weight_files import FORMATS

SMALL = {
    "adm64": {
        "image_size": 4,
        "num_classes": 3,
        "width": 32,
        "multipliers": [1],
        "blocks": 1,
        "attention": [],
        "head_channels": 32,
    },
    "edm_cifar10_uncond_vp": {
        "image_size": 4,
        "width": 16,
        "multipliers": [1],
        "blocks": 1,
        "attention": [],
    },
    "dit_xl_2": {
        "image_size": 4,
        "num_classes": 3,
        "width": 24,
        "depth": 1,
        "heads": 2,
    },
}
SMALL["sit_xl_2"] = SMALL["dit_xl_2"]
"""Architectures so small that what takes time is to compile them."""

FLAGS = (
    "--nfe=1",
    "--iterations=1",
    "--evaluate_every=1",
    "--train_pairs=8",
    "--validation_pairs=8",
    "--test_pairs=8",
    "--batch=8",
    "--chunk=8",
    "--rtol=1e-2",
    "--atol=1e-2",
    "--solvers=euler,ddim,unipc1",
    "--devices=1",
)

SCHEDULERS = {
    "adm64": "alphas_cumprod",
    "edm_cifar10_uncond_vp": "ve",
    "sit_xl_2": "cond_ot",
}
ADAM = ("--optimizer=adam", "--init=euler")


def run(name, path, workdir, *flags):
    given = f"--model={name}", f"--weights={path}"
    config = f"--config={json.dumps(SMALL[name])}"
    return experiment("distill_checkpoint", workdir, *given, config, *FLAGS, *flags)


def write(name, kind, folder):
    """Random weights of the small architecture in a file."""
    network = PUBLISHED[name].changed(SMALL[name]).network(np.float32, remat=False)
    path = folder / f"weights.{kind}"
    tensors = random_tensors(convert.layout(network.shapes()), seed=0)
    path.write_bytes(FORMATS[kind](tensors))
    return path


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "kind", "flags"),
    [
        ("adm64", "zip", (*ADAM, "--guidance=0.2")),
        ("edm_cifar10_uncond_vp", "pickle", (*ADAM, "--guidance=0")),
        ("sit_xl_2", "safetensors", (*ADAM, "--guidance=0.5", "--labels=0,2")),
    ],
)
def test_from_a_file_of_weights_to_solver_files_and_pictures(
    tmp_path, name, kind, flags
):
    path, workdir = write(name, kind, tmp_path), tmp_path / "run"
    done = run(name, path, workdir, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    metadata = interchange.load_metadata(workdir / "solvers" / "bns_1.json")
    assert metadata["model"] == name
    assert metadata["config"] | SMALL[name] == metadata["config"]
    assert len(interchange.load(workdir / "solvers" / "bns_1.json").a) == 1
    stated = interchange.load_purpose(workdir / "solvers" / "bns_1.json")
    assert stated.prediction == PUBLISHED[name].prediction
    assert stated.scheduler["name"] == SCHEDULERS[name]
    assert f"--guidance={stated.guidance:g}" in flags
    assert stated.measured.best_other in ("euler", "ddim", "unipc1")
    with open(workdir / "table.csv") as file:
        rows = {row["solver"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"euler", "ddim", "unipc1", "bns"}
    for picture in ("psnr_vs_nfe.png", "samples.png"):
        assert (workdir / picture).read_bytes()[1:4] == b"PNG"
    taught = "which it was never taught" in done.stdout
    assert taught == (name == "adm64")
    # The estimate counts the forwards that the run reports, and two validations.
    counted = dict(line.split()[:3:2] for line in _estimate(done.stdout, "distill"))
    spent = int(rows["bns"]["forwards"]) + 2 * 8
    assert counted == {"distill": f"{spent:,}"}
    if kind == "pickle":
        before = contents(workdir / "pairs")
        again = run(name, path, workdir, *flags, "--stage=distill")
        assert again.returncode == 0, again.stderr
        assert contents(workdir / "pairs") == before
        solver = (workdir / "solvers" / "bns_1.json").read_text()
        assert f'"forwards": {rows["bns"]["forwards"]}' in solver


def _estimate(text, stage):
    table = text.partition("estimate, ")[2].partition("memory: ")[0]
    return [line for line in table.splitlines() if line.startswith(stage)]


@pytest.mark.exhaustive
def test_the_estimate_alone_needs_no_weights_and_starts_nothing(tmp_path):
    done = run("dit_xl_2", "", tmp_path / "run", "--stage=estimate", "--remat")
    assert done.returncode == 0, done.stderr
    network = PUBLISHED["dit_xl_2"].changed(SMALL["dit_xl_2"])
    shapes = jax.tree.leaves(network.network(np.float32, remat=False).shapes())
    size = 4 * sum(math.prod(leaf.shape) for leaf in shapes)
    # The guidance scale is a leaf of the field too, 8 bytes at most.
    sizes = {f"memory: {(size + more) / 1e3:.1f} kB" for more in (0, 4, 8)}
    assert any(text in done.stdout for text in sizes)
    assert "of weights; a field call on a chunk" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labels=1,3"], "labels must be from 0 to 2, got [1, 3]"),
        (["--labels=a"], "must be integers"),
        (["--config={"], "expected a JSON object"),
        (["--model=digits"], "must be one of"),
    ],
)
def test_bad_input_is_named_before_any_work(tmp_path, flags, message):
    path = write("sit_xl_2", "zip", tmp_path)
    refused = run("sit_xl_2", path, tmp_path / "run", *flags)
    assert refused.returncode == 1
    assert message in refused.stderr + refused.stdout
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_does_not_load_is_named(tmp_path):
    path = write("sit_xl_2", "zip", tmp_path)
    for name, given, config, message in (
        ("sit_xl_2", "", {}, "needs --weights, the path of SiT-XL-2-256.pt"),
        ("sit_xl_2", "none.pt", {}, "no weights file at none.pt"),
        ("sit_xl_2", path, {"depht": 2}, r"got \['depht'\]"),
        ("adm64", path, SMALL["adm64"], "it looks like a DiT or SiT"),
    ):
        with pytest.raises(ValueError, match=message):
            catalogue.checkpoint(name, 0.0, given, config=config)


def test_noise_has_the_scale_of_the_path_and_labels_are_those_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    name = "edm_cifar10_uncond_vp"
    config = SMALL[name] | {"num_classes": 4, "sigma_data": 0.5}
    origin = PUBLISHED[name].changed(config)
    layout = convert.layout(origin.network(np.float32, remat=False).shapes())
    path = tmp_path / "weights.zip"
    path.write_bytes(FORMATS["zip"](random_tensors(layout, seed=0)))
    model = catalogue.checkpoint(name, 0.0, path, config=config, labels=[1, 3])
    x0, (labels,) = model.draw(500, rng)
    assert x0.shape == (500, 4, 4, 3)
    assert abs(x0.std() / 80.0 - 1.0) < 0.02
    assert set(labels) == {1, 3}


@pytest.mark.exhaustive
def test_weights_over_all_devices_give_the_same_velocities(tmp_path):
    config = SMALL["sit_xl_2"] | {"width": 96}
    network = PUBLISHED["sit_xl_2"].changed(config).network(np.float32, remat=False)
    tensors = random_tensors(convert.layout(network.shapes()), seed=0)
    path = tmp_path / "weights.zip"
    path.write_bytes(FORMATS["zip"](tensors))
    model = catalogue.checkpoint("sit_xl_2", 0.5, path, config=config)
    model = model.on(parallel.data_mesh(), shard_weights=True)
    leaves = jax.tree.leaves(model.field)
    assert any(not leaf.sharding.is_fully_replicated for leaf in leaves[:-1])
    x, (label,) = model.draw(3, np.random.default_rng(0))
    alone = pretrained.load("sit_xl_2", path, config=config).field(0.5)
    expected, got = (jax.jit(f)(0.3, x, label) for f in (alone, model.field))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_the_flag_knows_every_published_checkpoint():
    assert tuple(PUBLISHED) == CHECKPOINTS
