"""Laws of loading: exact weights, the right velocity, and a name for every fault."""

import argparse
import dataclasses
import functools
import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import bns_jax
from bns_jax import parallel, solvers
from bns_jax.models import (
    convert,
    edm,
    edm_precondition,
    pretrained,
    published,
    recognise,
    state_dict,
)
from bns_jax.models.edm_unet import EDMConfig, EDMUNet
from bns_jax.models.published import PUBLISHED
from bns_jax.models.tensors import Tensors
from tests import weight_files
from tests.laws import first_cases, first_of
from tests.published import FIXTURES, Fixture, error, least, loaded
from tests.weight_files import FORMATS

SMALL = {
    "adm64": ("adm_tiny", "zip"),
    "adm128": ("adm_tiny", "stream"),
    "edm_cifar10_cond_vp": ("edm_ddpmpp_tiny", "pickle"),
    "edm_cifar10_uncond_ve": ("edm_ncsnpp_tiny", "pickle"),
    "dit_xl_2": ("dit_tiny", "zip"),
    "sit_xl_2": ("sit_tiny", "safetensors"),
}
"""Published checkpoint -> a small network like it, and a format to read it from."""


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a small relative of a published checkpoint from a file."""
    folder = tmp_path_factory.mktemp("weights")

    @functools.cache
    def from_file(name, change=lambda tensors: tensors, **options):
        small, kind = SMALL[name]
        fixture = Fixture(small)
        path = folder / f"{small}.{kind}"
        path.write_bytes(FORMATS[kind](change(dict(fixture.tensors))))
        return pretrained.load(name, path, config=fixture.values, **options), fixture

    return from_file


@pytest.mark.parametrize(
    "name", first_of(SMALL, "adm128", "edm_cifar10_cond_vp", "sit_xl_2")
)
def test_a_file_becomes_the_weights_of_the_network(load, name):
    model, fixture = load(name)
    assert jax.tree.structure(model.params) == jax.tree.structure(fixture.params)
    for got, expected in zip(
        jax.tree.leaves(model.params), jax.tree.leaves(fixture.params), strict=True
    ):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected)


def inputs(config, scale=1.0):
    x = scale * np.random.default_rng(3).normal(size=(3, *config.image_shape))
    label = jnp.array([0, config.num_classes - 1, 2])
    return jnp.asarray(x, jnp.float32), (label,) if config.num_classes else ()


@functools.partial(jax.jit, static_argnums=0)
def apply(network, params, told, x, *classes):
    return network.apply({"params": params}, told, x, *classes)


def raw(model, told, x, classes):
    out = apply(model.network, model.params, jnp.float32(told), x, *classes)
    return np.asarray(out, np.float64)[..., : x.shape[-1]]


@jax.jit
def call(field, t, x, *classes):
    return field(t, x, *classes)


def velocity(field, t, x, *classes):
    return np.asarray(call(field, jnp.float64(t), x, *classes))


@pytest.mark.parametrize("name", first_of(["adm64", "adm128", "dit_xl_2"], "adm64"))
@pytest.mark.parametrize("step", first_of([0, 300, 950], 300))
def test_noise_predictions_become_velocities_at_their_steps(name, step):
    model = loaded(name)
    x, classes = inputs(model.config)
    steps = len(model.scheduler.log_alphas) - 1
    t = 1.0 - (step + 1) / steps
    # The velocity is the slope of the path through both ends (Table 1).
    noise = raw(model, float(step), x, classes)
    near = np.nextafter(np.float32(t), np.float32(1.0)).astype(np.float64)
    alpha, sigma, d_alpha, d_sigma = (
        float(getattr(model.scheduler, part)(near))
        for part in ("alpha", "sigma", "d_alpha", "d_sigma")
    )
    expected = d_alpha * (np.asarray(x) - sigma * noise) / alpha + d_sigma * noise
    assert error(velocity(model.field(), near, x, *classes), expected) < 1e-3


def test_a_flow_model_is_its_velocity():
    model = loaded("sit_xl_2")
    x, classes = inputs(model.config)
    expected = raw(model, 0.3, x, classes)
    assert error(velocity(model.field(), 0.3, x, *classes), expected) < 1e-6


@pytest.mark.parametrize("name", first_of(["adm64", "sit_xl_2"], "sit_xl_2"))
def test_guidance_mixes_with_the_null_label(name):
    model = loaded(name)
    x, (label,) = inputs(model.config)
    null = jnp.full_like(label, model.config.num_classes)
    cond, uncond = (velocity(model.field(), 0.6, x, y) for y in (label, null))
    got = velocity(model.field(0.5), 0.6, x, label)
    assert error(got, 1.5 * cond - 0.5 * uncond) < 1e-4
    assert error(cond, uncond) > 1e-4
    assert model.knows_null == (name == "sit_xl_2")


@pytest.mark.parametrize("name", first_of(["dit_xl_2", "sit_xl_2"], "sit_xl_2"))
def test_guidance_of_the_leading_channels_leaves_the_rest_conditional(name):
    model = loaded(name)
    x, (label,) = inputs(model.config)
    cond, all_guided, got = (
        velocity(field, 0.6, x, label)
        for field in (model.field(), model.field(0.5), model.field(0.5, channels=3))
    )
    assert x.shape[-1] == 4
    assert error(got[..., :3], all_guided[..., :3]) < 1e-5
    assert error(got[..., 3:], cond[..., 3:]) < 1e-5
    assert error(all_guided[..., 3:], cond[..., 3:]) > 1e-3
    for channels in (0, 5):
        with pytest.raises(ValueError, match=f"from 1 to 4, .*, got {channels}"):
            model.field(0.5, channels=channels)


def test_guidance_needs_classes():
    model = loaded("edm_cifar10_uncond_ve")
    with pytest.raises(ValueError, match="guidance needs a class-conditional network"):
        model.field(0.2)


@pytest.mark.parametrize("label", [[0, 6, 1], [-1, 0, 0]])
def test_a_label_out_of_range_is_named(label):
    model = loaded("adm64")
    x, _ = inputs(model.config)
    message = rf"labels run from 0 to 4, and 5 is none; got \[{[6, -1][label[0]]}\]"
    with pytest.raises(ValueError, match=message):
        model.field()(0.5, x, np.array(label))
    with pytest.raises(ValueError, match="expected labels"):
        model.field()(0.5, x)


def test_solvers_run_on_it():
    model = loaded("sit_xl_2")
    x, classes = inputs(model.config)
    out = bns_jax.sample(solvers.midpoint(4), model.field(1.5), x, *classes)
    assert out.shape == x.shape
    assert np.all(np.isfinite(out))


@pytest.mark.parametrize(
    "name", first_of(["adm64", "edm_cifar10_uncond_ve", "dit_xl_2"], "dit_xl_2")
)
def test_bfloat16_keeps_weights_and_output_wide(load, name):
    model, fixture = load(name, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {np.dtype("f4")}
    out = apply(model.network, model.params, *fixture.given)
    assert out.dtype == jnp.float32
    got = np.asarray(out)[..., : fixture.expected.shape[-1]]
    assert 1e-5 < error(got, fixture.expected) < 0.1


@pytest.mark.parametrize(
    "name", first_of(["adm64", "edm_cifar10_uncond_ve", "dit_xl_2"], "dit_xl_2")
)
def test_rematerialisation_changes_nothing_but_the_backward_pass(load, name):
    plain, fixture = load(name)
    again, _ = load(name, remat=True)

    def program(model):
        def loss(x):
            t, _, label = fixture.given
            return jnp.sum(model.network.apply({"params": model.params}, t, x, label))

        return jax.make_jaxpr(jax.grad(loss))(fixture.given[1])

    blocks = str(program(again)).count("prevent_cse")
    assert blocks >= 2 > str(program(plain)).count("prevent_cse")
    if name == "adm64":
        got = np.asarray(apply(again.network, again.params, *fixture.given))
        assert error(got, fixture.expected) < 1e-4


@pytest.mark.exhaustive
def test_weights_are_cut_over_devices():
    fixture = Fixture("dit_mid")
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    sharded = parallel.fsdp(fixture.params, mesh)
    assert error(fixture.output(sharded), fixture.expected) < 1e-4
    leaves = jax.tree.leaves(sharded)
    whole = sum(leaf.nbytes for leaf in leaves)
    here = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert here < 1.2 * whole / len(jax.devices())


def broken(load, name, change):
    with pytest.raises(ValueError, match=f"does not fit {name}; it looks like ") as e:
        load(name, change)
    return str(e.value)


def test_every_tensor_that_does_not_fit_is_named(load):
    def change(tensors):
        tensors["extra.weight"] = np.zeros((2, 2), np.float32)
        del tensors["out.0.bias"]
        tensors["label_emb.weight"] = tensors["label_emb.weight"][:4]
        return tensors

    message = broken(load, "adm64", change)
    assert "missing out.0.bias" in message
    assert "left over extra.weight" in message
    assert "label_emb.weight: expected shape (5, 128), got (4, 128)" in message
    assert "a class-conditional ADM of guided-diffusion with" in message


def test_an_input_of_augmentations_has_its_shape(load):
    def change(tensors):
        tensors["model.map_augment.weight"] = np.zeros((32, 8), np.float32)
        return tensors

    message = broken(load, "edm_cifar10_cond_vp", change)
    assert "map_augment.weight: expected shape (32, 9), got (32, 8)" in message


@pytest.mark.parametrize(
    ("small", "kind"),
    [
        ("adm_tiny", "a class-conditional ADM"),
        ("adm_plain", "an unconditional ADM"),
        ("edm_ncsnpp_tiny", "an NCSN"),
        ("edm_dhariwal_tiny", "an ADM in EDM's writing"),
        ("edm_ddpmpp_tiny", "a DDPM"),
        ("dit_tiny", "a DiT or SiT"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_recognised(load, small, kind):
    tensors = Fixture(small).tensors
    other = "dit_xl_2" if small != "dit_tiny" else "adm64"
    assert f"it looks like {kind}" in broken(load, other, lambda _: tensors)


def test_published_sizes_are_recognised_by_name():
    layouts = json.loads(gzip.decompress((FIXTURES / "layouts.json.gz").read_bytes()))
    for name in ("adm64", "edm_imagenet64", "dit_xl_2"):
        tensors = {
            key: np.broadcast_to(np.float32(0), shape)
            for key, shape in layouts[name].items()
        }
        assert name in recognise.looks_like(tensors).split(" or ")
    assert "no network known here" in recognise.looks_like({"x": np.zeros(3)})


def table_1(kind, sigma, data):
    """c_skip, c_out, c_in and c_noise of Karras et al. (2022), Table 1."""
    preserved = 1, -sigma, 1 / np.sqrt(sigma**2 + 1)
    if kind == "VPPrecond":
        grown = np.log(sigma**2 + 1)
        time = (np.sqrt(0.1**2 + 2 * 19.9 * grown) - 0.1) / 19.9
        return *preserved, 999 * time
    if kind == "VEPrecond":
        return 1, sigma, 1, np.log(sigma / 2)
    if kind == "iDDPMPrecond":
        levels = np.arange(1, 1001)
        kept = np.sin(0.5 * np.pi * levels / 1000 / 1.008) ** 2
        steps = np.sqrt(kept[-1] / kept - 1)  # the recursion of its appendix, undone
        return *preserved, 999 - levels[np.argmin(abs(steps - sigma))]
    total = sigma**2 + data**2
    root = np.sqrt(total)
    return data**2 / total, sigma * data / root, 1 / root, np.log(sigma) / 4


def unsaid(fixture):
    """The configuration without what its file says."""
    return {k: v for k, v in fixture.values.items() if k != "sigma_data"}


# The level of iDDPM is one of its own, where no rounding is needed.
LEVEL_600 = np.sqrt(
    (np.sin(0.5 * np.pi / 1.008) / np.sin(0.5 * np.pi * 0.6 / 1.008)) ** 2 - 1
)
DENOISERS = [
    ("EDMPrecond", "edm_cifar10_cond_vp", 0.25, {}),
    (
        "VPPrecond",
        "edm_cifar10_cond_vp",
        None,
        {"beta_d": 19.9, "beta_min": 0.1, "M": 1000},
    ),
    ("VEPrecond", "edm_cifar10_uncond_ve", None, {}),
    (
        "iDDPMPrecond",
        "edm_imagenet64",
        None,
        {"C_1": 0.001, "C_2": 0.008, "M": 1000},
    ),
]


@pytest.mark.parametrize(
    ("kind", "name", "data", "constants"), first_cases(DENOISERS, DENOISERS[0])
)
def test_a_pickle_says_how_its_network_is_preconditioned(
    tmp_path, kind, name, data, constants
):
    # Of the last one a head has 64 channels.
    config, tensors = least(name, width=64 if kind == "iDDPMPrecond" else 16)
    network = PUBLISHED[name].changed(config).network(np.float32, remat=False)
    params = convert.to_flax(tensors, network.shapes())["model"]
    if kind == "iDDPMPrecond":  # noise and variance, and its levels
        for part in ("weight", "bias"):
            old = tensors[f"model.out_conv.{part}"]
            tensors[f"model.out_conv.{part}"] = np.concatenate([old, old + 1])
        tensors["u"] = np.zeros(1001)
    path = tmp_path / "network.pkl"
    path.write_bytes(weight_files.network(tensors, kind, data, **constants))
    model = pretrained.load(name, path, config=config)
    assert edm_precondition.CLASSES[kind] == model.config.preconditioning
    sigma = LEVEL_600
    got = edm_precondition.scalings(model.config, jnp.array([sigma], jnp.float32))
    expected = table_1(kind, sigma, data)
    np.testing.assert_allclose(np.concatenate(got), expected, rtol=1e-5, atol=1e-3)
    if kind in ("VPPrecond", "VEPrecond"):
        return  # the network is one of the others
    x, classes = inputs(network.config, sigma)
    skip, out, given, noise = table_1(kind, sigma, data)
    told = jnp.full(len(x), noise, jnp.float32)
    inner = EDMUNet(network.config)
    raw = apply(inner, params, told, jnp.float32(given) * x, *classes)
    denoised = skip * np.asarray(x, np.float64) + out * np.asarray(raw, np.float64)
    expected = -80.0 * (np.asarray(x) - denoised) / sigma
    got = velocity(model.field(), 1 - sigma / 80, x, *classes)
    assert error(got, expected) < 1e-4


@pytest.mark.parametrize("kind", ["edm", "vp", "ve", "iddpm"])
def test_preconditionings_are_those_of_table_1_at_every_level(kind):
    config = EDMConfig(preconditioning=kind, sigma_data=0.3)
    (name,) = (k for k, v in edm_precondition.CLASSES.items() if v == kind)
    levels = np.geomspace(0.01, 80, 20)
    if kind == "iddpm":  # between its own the step is fractional
        levels = edm_precondition.iddpm_levels()[[999, 990, 800, 400, 100, 10]]
    given = jnp.asarray(levels, jnp.float32)
    got = np.stack(edm_precondition.scalings(config, given), axis=1)
    expected = [table_1(name, level, 0.3) for level in levels]
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-3)


def test_iddpms_step_is_monotonic_and_stays_in_its_range():
    config = EDMConfig(preconditioning="iddpm")
    levels = jnp.geomspace(1e-5, 1e5, 500, dtype=jnp.float32)
    steps = np.asarray(edm_precondition.scalings(config, levels).noise)
    assert np.all(np.diff(steps) >= 0)
    assert (steps[0], steps[-1]) == (0, 999)


@pytest.mark.parametrize(
    ("kind", "settings", "config", "message"),
    [
        ("DDIMPrecond", {}, {}, "expected one of EDMPrecond, .*got a DDIMPrecond"),
        ("EDMPrecond", {"sigma_data": None}, {}, "an EDMPrecond without a sigma_data"),
        ("EDMPrecond", {}, {"sigma_data": 0.3}, "its sigma_data is 0.5, got 0.3"),
        ("VEPrecond", {}, {"preconditioning": "edm"}, "is 've', got 'edm'"),
        (
            "VPPrecond",
            {"beta_d": 19.9, "beta_min": 0.2, "M": 1000},
            {},
            "with beta_min = 0.1, got 0.2",
        ),
    ],
)
def test_another_preconditioning_than_known_or_said_is_refused(
    tmp_path, kind, settings, config, message
):
    fixture = Fixture("edm_ddpmpp_tiny")
    path = tmp_path / "network.pkl"
    path.write_bytes(weight_files.network(fixture.tensors, kind, **settings))
    with pytest.raises(ValueError, match=f"does not fit edm_cifar10.*{message}"):
        pretrained.load("edm_cifar10_cond_vp", path, config=unsaid(fixture) | config)


def test_of_tensors_alone_the_preconditioning_is_assumed_aloud(tmp_path):
    fixture = Fixture("edm_ddpmpp_tiny")
    path = tmp_path / "network.pt"
    path.write_bytes(weight_files.archive(fixture.tensors))
    read = functools.partial(pretrained.load, "edm_cifar10_cond_vp", path)
    with pytest.warns(UserWarning, match='assumed: "edm" with sigma_data 0.5') as heard:
        read(config=unsaid(fixture))
    assert len(heard) == 1
    model = read(config=unsaid(fixture) | {"sigma_data": 0.25})
    assert model.config.sigma_data == 0.25


@pytest.mark.exhaustive
def test_heads_on_the_way_up_may_be_others(tmp_path):
    fixture = Fixture("adm_tiny")
    silent = {  # attention works on the way up alone
        name: values * (name.startswith("output_blocks.") or "proj_out" not in name)
        for name, values in fixture.tensors.items()
    }
    path = tmp_path / "adm.pt"
    path.write_bytes(weight_files.archive(silent))
    given = {**fixture.values, "head_channels": None}
    one, other = (
        pretrained.load("adm64", path, config=given | heads)
        for heads in ({"heads": 1}, {"heads": 2, "heads_upsample": 1})
    )
    assert other.config.heads_of("middle_block.1", 64) == 2
    got, expected = (apply(m.network, m.params, *fixture.given) for m in (other, one))
    assert error(np.asarray(got), np.asarray(expected)) < 1e-5


def test_a_pickle_that_has_other_heads_is_refused(tmp_path):
    fixture = Fixture("adm_tiny")
    (layer,) = {
        name.removesuffix(".qkv.weight")
        for name in fixture.tensors
        if name.endswith("qkv.weight") and name.startswith("output_blocks.0")
    }
    given = {**fixture.values, "head_channels": None, "heads": 1}
    path = tmp_path / "adm.pkl"
    for heads in (1, 2):
        held = {f"{layer}.num_heads": heads}
        path.write_bytes(weight_files.network(fixture.tensors, "UNetModel", **held))
        read = functools.partial(pretrained.load, "adm64", path)
        if heads == 1:
            read(config=given)
        else:
            message = rf"{layer}\.num_heads: expected 1 heads, got 2"
            with pytest.raises(ValueError, match=message):
                read(config=given)
            read(config=given | {"heads_upsample": 2})


def test_a_pickled_transformer_that_has_other_heads_is_refused(tmp_path):
    fixture, path = Fixture("dit_tiny"), tmp_path / "dit.pkl"
    heads = fixture.network.config.heads
    for held in (heads, heads + 1):
        told = {"blocks.0.attn.num_heads": held}
        path.write_bytes(weight_files.network(fixture.tensors, "DiT", None, **told))
        read = functools.partial(pretrained.load, "dit_xl_2", path)
        if held == heads:
            read(config=fixture.values)
        else:
            message = f"num_heads: expected {heads} heads, got {held}"
            with pytest.raises(ValueError, match=message):
                read(config=fixture.values)


def test_an_architecture_without_weights_has_zeros_of_their_shapes():
    name = "sit_xl_2"
    config, tensors = least(name)
    model = pretrained.without_weights(name, config=config)
    expected = convert.to_flax(tensors, model.network.shapes())
    assert jax.tree.structure(model.params) == jax.tree.structure(expected)
    for got, leaf in zip(
        jax.tree.leaves(model.params), jax.tree.leaves(expected), strict=True
    ):
        assert (got.shape, got.dtype) == (leaf.shape, leaf.dtype)
        assert not np.any(got)
    assert model.scheduler == PUBLISHED[name].scheduler
    with pytest.raises(ValueError, match="dit_xl_3"):
        pretrained.without_weights("dit_xl_3")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "DDPM"}, "network must be one of .*, got 'DDPM'"),
        (
            {"preconditioning": "eps"},
            r"must be one of \['edm', .*'iddpm'.*\], got 'eps'",
        ),
        ({"sigma_data": 0.0}, "sigma_data must be positive and finite, got 0.0"),
        ({"sigma_data": np.nan}, "sigma_data must be positive and finite, got nan"),
        ({"image_size": 6}, "3 levels do not halve an image of 6 pixels"),
    ],
)
def test_an_architecture_that_edm_does_not_have_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EDMConfig(**settings)


def test_the_levels_of_iddpm_are_of_its_files_and_no_weights():
    """One more than its 1000 steps, as that of pure data."""
    plain = EDMConfig(augment=0)
    assert edm.unused(plain, {}) == {}
    iddpm = dataclasses.replace(plain, preconditioning="iddpm")
    assert edm.unused(iddpm, {}) == {"u": (1001,)}


UNUSABLE = {
    "int32": lambda x: np.ones(x.shape, np.int64),
    "bool": lambda x: np.ones(x.shape, bool),
    "complex": lambda x: x.astype(np.complex64),
    "nan": lambda x: np.where(x == x.flat[3], np.nan, x).astype(x.dtype),
    "infinite": lambda x: np.full_like(x, np.inf),
    "beyond float32": lambda x: x.astype(np.float64) * 1e300,
}


@pytest.mark.parametrize("kind", list(UNUSABLE))
def test_weights_that_are_no_finite_numbers_are_refused(kind, monkeypatch):
    def change(tensors):
        bad = UNUSABLE[kind](tensors["out.0.bias"] + 1)
        return {**tensors, "out.0.bias": bad}

    fixture = Fixture("adm_tiny")
    changed = Tensors(change(fixture.tensors))
    monkeypatch.setattr(state_dict, "read", lambda path: changed)
    message = "out.0.bias: (expected floating-point numbers, got|.* not finite)"
    with pytest.raises(ValueError, match=message):
        pretrained.load("adm64", "file", config=fixture.values)


@pytest.mark.exhaustive
def test_a_dit_may_lack_the_null_label_and_be_of_another_ratio(tmp_path):
    """It is the usual one, whose other numbers are zeros."""
    fixture = Fixture("dit_tiny")
    classes, width = (fixture.values[key] for key in ("num_classes", "width"))
    table, hidden = "y_embedder.embedding_table.weight", 3 * width
    lean, usual = dict(fixture.tensors), dict(fixture.tensors)
    lean[table] = lean[table][:classes]
    usual[table] = np.concatenate([lean[table], np.zeros((1, width), np.float32)])
    for name in lean:
        if name.endswith(("mlp.fc1.weight", "mlp.fc1.bias")) and "blocks" in name:
            lean[name] = lean[name][:hidden]
        elif name.endswith("mlp.fc2.weight"):
            lean[name] = np.ascontiguousarray(lean[name][:, :hidden])
            usual[name] = np.where(np.arange(4 * width) < hidden, usual[name], 0)

    def load(tensors, **changes):
        path = tmp_path / "dit.pt"
        path.write_bytes(weight_files.archive(tensors))
        return pretrained.load("dit_xl_2", path, config=fixture.values | changes)

    models = load(usual), load(lean, null_label=False, mlp_ratio=3.0)
    assert [model.knows_null for model in models] == [True, False]
    step, x, _ = fixture.given
    label = jnp.array([0, classes, classes - 1][: len(x)])
    expected, got = (apply(m.network, m.params, step, x, label) for m in models)
    assert error(np.asarray(got), np.asarray(expected)) < 1e-5


def test_a_network_is_found_in_its_wrapper(tmp_path):
    fixture, path = Fixture("edm_ddpmpp_tiny"), tmp_path / "wrapped.pkl"
    wrapped = weight_files.wrapped(fixture.tensors, "EDMPrecond", 0.25)
    path.write_bytes(weight_files.whole(wrapped))
    model = pretrained.load("edm_cifar10_cond_vp", path, config=unsaid(fixture))
    assert model.config.sigma_data == 0.25
    jax.tree.map(np.testing.assert_array_equal, model.params, fixture.params)


@pytest.mark.parametrize(
    ("name", "small", "prefix"),
    [
        ("dit_xl_2", "dit_tiny", "model."),
        ("dit_xl_2", "dit_tiny", "model._orig_mod.module."),
        ("edm_cifar10_cond_vp", "edm_ddpmpp_tiny", ""),
        ("edm_cifar10_cond_vp", "edm_ddpmpp_tiny", "model."),
        ("edm_cifar10_cond_vp", "edm_ddpmpp_tiny", "_orig_mod."),
    ],
)
def test_prefixes_of_wrappers_are_cut(tmp_path, name, small, prefix):
    fixture, path = Fixture(small), tmp_path / "wrapped.pt"
    wrapped = {f"{prefix}{name}": values for name, values in fixture.tensors.items()}
    path.write_bytes(weight_files.archive(wrapped))
    model = pretrained.load(name, path, config=fixture.values)
    jax.tree.map(np.testing.assert_array_equal, model.params, fixture.params)


def training_file(tensors, **arguments):
    """What the training scripts of DiT and SiT write."""
    noise = {name: np.zeros_like(values) for name, values in tensors.items()}
    both = {f"model {name}": values for name, values in noise.items()}

    def wrap(opcodes):
        named = {k: v for k, v in opcodes.items() if k in tensors}
        other = {k.removeprefix("model "): v for k, v in opcodes.items() if k in both}
        parts = {
            "model": weight_files.mapping(other),
            "ema": weight_files.mapping(named),
            "opt": weight_files.plain({"state": {0: {"step": 7}}, "param_groups": []}),
            "args": weight_files.plain(argparse.Namespace(**arguments)),
        }
        return weight_files.mapping(parts)

    return weight_files.archive({**tensors, **both}, wrap)


@pytest.mark.parametrize(
    ("name", "small", "arguments", "message"),
    [
        ("dit_xl_2", "dit_tiny", {"model": "own", "image_size": 256}, ""),
        (
            "sit_xl_2",
            "sit_tiny",
            {"model": "own", "path_type": "Linear", "prediction": "velocity"},
            "",
        ),
        (
            "sit_xl_2",
            "sit_tiny",
            {"model": "own", "path_type": "GVP", "prediction": "noise"},
            "path_type 'GVP', expected 'Linear'; trained with prediction 'noise'",
        ),
        (
            "dit_xl_2",
            "sit_tiny",
            {"model": "own", "path_type": "Linear"},
            "path_type 'Linear', expected None",
        ),
        ("dit_xl_2", "dit_tiny", {"model": "DiT-S/2"}, "a DiT-S/2 has 6 heads, got"),
    ],
)
def test_what_a_training_script_writes_is_read(
    tmp_path, name, small, arguments, message
):
    fixture, path = Fixture(small), tmp_path / "0400000.pt"
    path.write_bytes(training_file(fixture.tensors, **arguments))
    if message:
        with pytest.raises(ValueError, match=f"does not fit {name}.*{message}"):
            pretrained.load(name, path, config=fixture.values)
    else:
        model = pretrained.load(name, path, config=fixture.values)
        jax.tree.map(np.testing.assert_array_equal, model.params, fixture.params)


@pytest.mark.parametrize("place", ["pos_embed", "unneeded"])
def test_only_a_weight_that_cannot_be_read_is_refused(tmp_path, place):
    fixture, path = Fixture("dit_tiny"), tmp_path / "model.pt"
    quantized = weight_files.FOREIGN["quantized tensor"]()

    def wrap(opcodes):
        good = {k: v for k, v in opcodes.items() if k != "foreign"}
        return weight_files.mapping({**good, place: quantized})

    stored = fixture.tensors | {"foreign": weight_files.BYTES}
    path.write_bytes(weight_files.archive(stored, wrap))
    if place == "unneeded":
        pretrained.load("dit_xl_2", path, config=fixture.values)
        return
    message = r"pos_embed is a torch\._utils\._rebuild_qtensor, which is not read"
    with pytest.raises(ValueError, match=message):
        pretrained.load("dit_xl_2", path, config=fixture.values)


def test_unknown_names_and_entries_are_listed():
    with pytest.raises(ValueError, match=r"expected one of \['adm64', .*got 'adm65'"):
        pretrained.load("adm65", "file")
    with pytest.raises(ValueError, match=r"has the entries .*got \['depth'\]"):
        published.look_up("adm64").changed({"depth": 3})
    for changes in ({"width": 40}, {"image_size": 30}):
        with pytest.raises(ValueError, match="multiple of"):
            published.look_up("adm64").changed(changes)
    with pytest.raises(ValueError, match="must divide"):
        published.look_up("dit_xl_2").changed({"heads": 7})
    with pytest.raises(ValueError, match="network must be one of"):
        published.look_up("edm_ffhq_vp").changed({"network": "ddpm"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_channels": None, "heads": 7}, r"heads must divide .*, got 7"),
        (
            {"head_channels": None, "heads": 4, "heads_upsample": 5},
            r"heads_upsample must divide .*\[384, 576, 768\], got 5",
        ),
        ({"head_channels": 60}, r"head_channels must divide .*, got 60"),
        # The middle has attention whatever the list says.
        (
            {"head_channels": None, "heads": 5, "attention": ()},
            r"heads must divide .*\[768\], got 5",
        ),
        ({"head_channels": None, "heads": 0}, "heads must be at least 1, got 0"),
        ({"head_channels": None, "heads": None}, "heads must be a whole number"),
        ({"head_channels": -1}, "head_channels must be at least 1, got -1"),
        ({"head_channels": None, "heads_upsample": -1}, "heads_upsample must be at"),
        ({"heads": 2.0}, "heads must be a whole number, got 2.0"),
    ],
)
def test_heads_divide_what_they_attend_to(changes, message):
    with pytest.raises(ValueError, match=message):
        published.look_up("adm64").changed(changes)


def test_discrete_schedules_have_their_closed_forms():
    k = np.arange(1000)
    linear = published.linear()
    betas = 1e-4 + (0.02 - 1e-4) * k / 999
    alphas = linear.alpha(1.0 - (k + 1) / 1000)
    np.testing.assert_allclose(2 * np.log(alphas), np.cumsum(np.log1p(-betas)), 1e-9)
    cosine = published.cosine()
    steps = len(cosine.log_alphas) - 1
    assert 985 < steps < 1000
    angle = ((k[:steps] + 1) / 1000 + 0.008) / 1.008 * np.pi / 2
    expected = np.cos(angle) / np.cos(0.008 / 1.008 * np.pi / 2)
    t = 1.0 - (k[:steps] + 1) / steps
    np.testing.assert_allclose(cosine.alpha(t), expected, 1e-9)
    np.testing.assert_allclose(cosine.timestep(t), k[:steps], atol=1e-9)
    assert -5.1 <= cosine.log_snr(0.0) < -4.8
