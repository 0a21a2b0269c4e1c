"""Laws of what a solver file says it is for."""

import dataclasses
import hashlib
import json
import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest

import bns_jax
from bns_jax import (
    identity,
    interchange,
    schedulers,
    solvers,
    velocity,
)
from bns_jax.interchange import Measured, Purpose
from tests.laws import ALL_SCHEDULERS

MEASURED = Measured("test pairs", 1024, 51.54, (51.21, 51.82), "euler", 30.78)
FULL = Purpose(
    schedulers.vp(),
    prediction="epsilon",
    guidance=0.2,
    guided_channels=3,
    data_range=2.0,
    identity={"field": "f", "field_weights": 64 * "0", "field_probe": [0.1, 2.0, None]},
    measured=MEASURED,
)
PURPOSES = {
    "nothing": Purpose(),
    "everything": FULL,
    "a range": Purpose(guidance=(0.0, 2.5)),
    "unguided": Purpose(guidance=0),
    "blew up": Purpose(measured=Measured("pairs", 1, None)),
    "NumPy's range": Purpose(guidance=np.array([0.0, 2.0])),
    "NumPy's numbers": Purpose(guidance=np.float32(0.5), nfe=np.int64(2)),
} | {name: Purpose(scheduler) for name, scheduler in ALL_SCHEDULERS.items()}


def written(path, stated):
    interchange.save(path, solvers.euler(2), {"model": "mine"}, purpose=stated)
    return json.loads(path.read_text())


def test_the_file_says_it_in_words(tmp_path):
    record = written(tmp_path / "s.json", FULL)
    assert record["guidance"] == {
        "convention": "u = (1 + w) cond - w uncond",
        "scale": 0.2,
        "channels": 3,
    }
    assert record["scheduler"] == {"name": "vp", "beta_min": 0.1, "beta_max": 20.0}
    assert record["measured"]["interval_db"] == [51.21, 51.82]


def one_bit(values):
    """The same table, but for rounding."""
    return np.nextafter(values, 0.0)


TABLE = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))


@dataclasses.dataclass(frozen=True)
class Mine(schedulers.CondOT):
    power: float = 2.0


def test_schedulers_are_described_by_name_and_numbers():
    shifted = schedulers.shifted(3.0, schedulers.ve(80.0))
    assert schedulers.describe(shifted) == {
        "name": "shifted",
        "shift": 3.0,
        "base": {"name": "ve", "sigma_max": 80.0, "rho": 1.0},
    }
    assert schedulers.describe(Mine()) == {"name": "Mine", "power": 2.0}
    table = schedulers.describe(schedulers.from_alphas_cumprod(TABLE))
    assert table["name"] == "alphas_cumprod"
    assert table["log_alphas"]["length"] == 1001
    text = ",".join(f"{v:.6g}" for v in [*(0.5 * np.log(TABLE[::-1])), 0.0])
    assert table["log_alphas"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(TypeError, match="expected a scheduler, got 'vp'"):
        schedulers.describe("vp")


@dataclasses.dataclass(frozen=True)
class Named(schedulers.CondOT):
    label: str = "mine"
    warp: Callable = np.sqrt
    note: None = None


def test_fields_that_are_no_numbers_are_described_too():
    described = schedulers.describe(Named())
    assert described == {
        "name": "Named",
        "label": "mine",
        "warp": identity.describe(np.sqrt),
        "note": None,
    }
    assert "sqrt" in described["warp"]
    assert schedulers.describe(Named(warp=np.cbrt)) != described


def test_every_scheduler_has_a_description_of_its_own():
    described = [json.dumps(schedulers.describe(s)) for s in ALL_SCHEDULERS.values()]
    assert len(set(described)) == len(described)
    rounded = [schedulers.from_alphas_cumprod(t) for t in (TABLE, one_bit(TABLE))]
    assert rounded[0] != rounded[1]
    assert schedulers.describe(rounded[0]) == schedulers.describe(rounded[1])


OTHERS = {
    "scheduler": (Purpose(schedulers.cond_ot()), "scheduler: there {'name': 'vp'"),
    "prediction": (Purpose(prediction="v"), "prediction: there 'epsilon', here 'v'"),
    "guidance": (Purpose(guidance=0.5), "guidance: there 0.2, here 0.5"),
    "a range": (Purpose(guidance=(0.1, 0.3)), r"there 0.2, here \(0.1, 0.3\)"),
    "channels": (Purpose(guidance=0.2), "guided_channels: there 3, here 'all'"),
    "nfe": (Purpose(nfe=8), "nfe: there 2, here 8"),
    "data_range": (Purpose(data_range=1.0), "data_range: there 2.0, here 1.0"),
    "weights": (
        Purpose(identity={"field_weights": 64 * "1"}),
        "identity.field_weights: there '0+', here '1+'",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_solver_for_another_problem_is_refused_and_what_differs_named(tmp_path, name):
    path = tmp_path / "s.json"
    written(path, FULL)
    expected, message = OTHERS[name]
    with pytest.raises(ValueError, match=message) as caught:
        interchange.load(path, expect=expected)
    assert f"{path} is for another problem" in str(caught.value)


def test_all_that_differs_is_named_at_once(tmp_path):
    written(tmp_path / "s.json", FULL)
    other = Purpose(schedulers.cond_ot(), "velocity", 0.0, nfe=4, data_range=2.0)
    with pytest.raises(ValueError) as caught:
        interchange.load(tmp_path / "s.json", expect=other)
    named = re.findall(r"(\w+): there", str(caught.value))
    assert named == ["guidance", "nfe", "prediction", "scheduler"]


SAME = {
    "itself": FULL,
    "another measurement": dataclasses.replace(FULL, measured=None),
    "a part": Purpose(prediction="epsilon"),
    "float32": Purpose(guidance=np.float32(0.2), guided_channels=3),
    "a probe within rounding": Purpose(identity={"field_probe": [0.1, 2.001, None]}),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_problem_is_taken(tmp_path, name):
    written(tmp_path / "s.json", FULL)
    got = interchange.load(tmp_path / "s.json", expect=SAME[name])
    np.testing.assert_array_equal(got.b, solvers.euler(2).b)


def test_a_scale_within_the_range_agrees(tmp_path):
    path = tmp_path / "s.json"
    written(path, Purpose(guidance=(0.0, 2.0)))
    for inside in (0.0, 1.3, 2.0, (0.5, 1.5), (0.0, 2.0)):
        interchange.load(path, expect=Purpose(guidance=inside))
    for outside in (-0.1, 2.1, (1.0, 3.0)):
        with pytest.raises(ValueError, match=r"guidance: there \(0.0, 2.0\), here"):
            interchange.load(path, expect=Purpose(guidance=outside))


def test_what_the_file_does_not_state_is_said_and_not_compared(tmp_path):
    path = tmp_path / "s.json"
    written(path, Purpose(prediction="epsilon", guidance=0))
    asked = dataclasses.replace(FULL, guidance=0)
    with pytest.warns(UserWarning, match="not state: scheduler, data_range, identity$"):
        interchange.load(path, expect=asked)
    with pytest.raises(ValueError, match="prediction: there 'epsilon', here 'v'"):
        interchange.load(path, expect=dataclasses.replace(asked, prediction="v"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interchange.load(path)
        interchange.load(path, expect=Purpose())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"scheduler": "vp"}, "scheduler must be one, or have a name, got 'vp'"),
        ({"scheduler": {"name": "x", "y": object()}}, "scheduler must be JSON values"),
        ({"prediction": "eps"}, "prediction must be one of velocity, epsilon, .*'eps'"),
        ({"guidance": np.nan}, "guidance must be a finite number, got nan"),
        ({"guidance": (2.0, 1.0)}, r"guidance must be \(low, high\), got \(2.0, 1.0\)"),
        ({"guidance": [1.0, [2.0]]}, r"guidance must be a finite number, got \[2.0\]"),
        ({"guidance": np.ones((2, 2))}, "guidance must be a finite number, got array"),
        ({"guidance": (1.0, 2.0, 3.0)}, r"guidance must be \(low, high\)"),
        ({"guided_channels": 3}, "guided_channels needs the guidance scale"),
        ({"guidance": 0.2, "guided_channels": 0}, "guided_channels must be at least 1"),
        ({"nfe": 1.5}, "nfe must be a whole number, got 1.5"),
        ({"data_range": 0.0}, "data_range must be positive"),
        ({"identity": {"x": np.nan}}, "identity must be JSON values"),
        ({"identity": "mine"}, "identity must be by name, got 'mine'"),
        ({"measured": 40.0}, "measured must be a Measured, got 40.0"),
    ],
)
def test_a_purpose_of_another_kind_is_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        Purpose(**entries)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (("pairs", 0, 1.0), "pairs must be at least 1"),
        ((3, 3, 1.0), "on must be text, got 3"),
        (("pairs", 3, np.inf), "psnr_db must be a finite number, got inf"),
        (("pairs", 3, 1.0, (2.0, 1.0)), r"interval_db must be \(low, high\)"),
        (("pairs", 3, 1.0, None, 7), "best_other must be text, got 7"),
    ],
)
def test_a_measurement_of_another_kind_is_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        Measured(*entries)


def test_what_is_no_purpose_of_the_solver_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="purpose states nfe 4, the solver has 2"):
        written(tmp_path / "s.json", Purpose(nfe=4))
    for other in (FULL.record(), 3):
        with pytest.raises(ValueError, match="purpose must be a Purpose, got"):
            written(tmp_path / "s.json", other)
        with pytest.raises(ValueError, match="expect must be a Purpose, got"):
            interchange.load(tmp_path / "s.json", expect=other)
    assert not list(tmp_path.iterdir())


def net(t, x, *args):
    return x


def test_a_field_says_what_it_knows_of_itself():
    model = velocity.from_v(net, schedulers.vp())
    stated = Purpose(schedulers.vp(), "v")
    assert Purpose.of(model) == stated
    guided = velocity.guided(model, model, 0.5, channels=3)
    assert Purpose.of(guided) == Purpose(schedulers.vp(), "v", 0.5, 3)
    each = velocity.guided(net, net, np.array([0.0, 2.0, 1.0]))
    assert Purpose.of(each) == Purpose(guidance=(0.0, 2.0))
    assert Purpose.of(velocity.guided(model, model, None)) == stated
    assert Purpose.of(net) == Purpose()
    known = Purpose.of(net, prediction="velocity", guidance=0)
    assert known == Purpose(prediction="velocity", guidance=0.0)


def test_the_identity_of_a_field_is_what_the_library_says():
    of_field = identity.of_function("field", net, [0.5])
    assert Purpose(identity=of_field).identity == of_field


VP = schedulers.vp()
NOISE, OTHER = (velocity.from_epsilon(lambda t, x, k=k: k * x, VP) for k in (1.0, 0.5))
GUIDED = velocity.guided(NOISE, OTHER, 0.5, channels=2)
PROBLEMS = {
    "field": lambda: Purpose.of(GUIDED),
    "problem of the field": lambda: bns_jax.Problem(GUIDED).purpose({}),
    "guided problem": lambda: bns_jax.Problem.guided(
        NOISE, OTHER, 0.5, channels=2
    ).purpose({}),
    "purpose of the problem": lambda: Purpose.of(bns_jax.Problem(GUIDED)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_guided_field_says_its_scale_whatever_it_is_in(name):
    stated = PROBLEMS[name]()
    assert (stated.guidance, stated.guided_channels) == (0.5, 2)
    assert stated.prediction == "epsilon"
    assert stated.scheduler == schedulers.describe(VP)


def test_a_problem_of_a_guided_field_counts_two_calls():
    assert bns_jax.Problem(GUIDED).network_calls == 2
    assert bns_jax.Problem(NOISE).network_calls == 1


def test_what_a_problem_knows_is_in_its_purpose():
    problem = bns_jax.Problem(NOISE, data_range=9.0, name="mine")
    stated = Purpose.of(problem, guidance=0.0, nfe=4)
    assert (stated.data_range, stated.nfe, stated.guidance) == (9.0, 4, 0.0)
    assert stated.identity == {"model": "mine"}


def test_a_scale_per_sample_is_no_number_of_the_problem():
    field = velocity.guided(NOISE, OTHER, np.array([0.1, 0.7]), channels=1)
    assert bns_jax.Problem(field).purpose({}).guidance is None
    assert Purpose.of(field).guidance == (0.1, 0.7)
