"""Laws of the schema of solver files: it and the library take the same files."""

import copy
import dataclasses
import hashlib
import importlib.resources
import json

import jsonschema
import pytest

from bns_jax import interchange, purpose, solver_record, velocity
from tests.test_purpose import FULL, PURPOSES, written

SCHEMA = json.loads(
    importlib.resources.files("bns_jax").joinpath("solver.schema.json").read_text()
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def seal(path, record):
    """Writes a record with the checksum that the schema describes."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(
        json.dumps(record | {"sha256": digest} if "sha256" in record else rest)
    )


@pytest.mark.parametrize("name", PURPOSES)
def test_a_purpose_comes_back_from_a_file_that_meets_the_schema(tmp_path, name):
    record = written(tmp_path / "s.json", PURPOSES[name])
    VALIDATOR.validate(record)
    found = interchange.load_purpose(tmp_path / "s.json")
    assert found == dataclasses.replace(PURPOSES[name], nfe=2)
    assert record["version"] == solver_record.__version__


def test_the_schema_is_one_and_says_what_the_code_says():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["format"]["const"] == solver_record.FORMATS[-1]
    assert SCHEMA["properties"]["nfe"]["maximum"] == solver_record.MOST_NFE
    predictions = SCHEMA["properties"]["prediction"]["enum"]
    assert predictions == [*purpose.PREDICTIONS, None]
    guidance = SCHEMA["properties"]["guidance"]["properties"]
    assert guidance["convention"]["const"] == purpose.CONVENTION
    assert set(SCHEMA["required"]) == set(SCHEMA["properties"])
    for entry in SCHEMA["properties"].values():
        assert entry["title"]


def test_predictions_are_those_that_become_a_velocity():
    made = {name.removeprefix("from_") for name in dir(velocity) if name[:5] == "from_"}
    assert made | {"velocity"} == set(purpose.PREDICTIONS)


def places(schema, record, path=()):
    """Every required entry, as the path to it."""
    for name in schema.get("required", ()):
        yield (*path, name)
        below = schema["properties"].get(name, {})
        yield from places(below, record[name], (*path, name))


def test_a_required_entry_removed_is_refused_by_schema_and_load_alike(tmp_path):
    path = tmp_path / "s.json"
    whole = written(path, FULL)
    required = list(places(SCHEMA, whole))
    assert len(required) == 14 + 3 + 6
    for *above, name in required:
        record = copy.deepcopy(whole)
        inner = record
        for step in above:
            inner = inner[step]
        del inner[name]
        assert not VALIDATOR.is_valid(record), (above, name)
        seal(path, record)
        with pytest.raises(ValueError, match=rf"{path}.*{name}"):
            interchange.load(path)


BAD = {
    ("unknown",): 1,
    ("version",): 1,
    ("nfe",): 0,
    ("scheduler",): "vp",
    ("scheduler", "name"): None,
    ("prediction",): "eps",
    ("guidance",): 0.2,
    ("guidance", "convention"): "u = w cond + (1 - w) uncond",
    ("guidance", "scale"): [0.0],
    ("guidance", "channels"): 0,
    ("guidance", "strength"): 1,
    ("data_range",): 0,
    ("identity",): [],
    ("measured",): 50.0,
    ("measured", "pairs"): 0,
    ("measured", "psnr_db"): "50",
    ("measured", "interval_db"): [1.0, 2.0, 3.0],
    ("measured", "best_other"): 3,
    ("metadata",): [],
    ("times",): [0.0, 1.5],
    ("a",): [1.0, "1"],
    ("b",): [[1.0], [True, 1.0]],
}


@pytest.mark.parametrize("place", BAD, ids=".".join)
def test_an_entry_of_another_kind_is_refused_by_schema_and_load_alike(tmp_path, place):
    path = tmp_path / "s.json"
    record = inner = written(path, FULL)
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = BAD[place]
    assert not VALIDATOR.is_valid(record)
    seal(path, record)
    with pytest.raises(ValueError, match=str(path)):
        interchange.load(path)
