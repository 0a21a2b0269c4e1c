"""Laws of the solver file: exact, readable, and it notices damage."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bns_jax
from bns_jax import NSParams, interchange, solvers

laws = settings(max_examples=40, deadline=None, derandomize=True)
finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@st.composite
def valid_solvers(draw):
    n = draw(st.integers(1, 5))
    times = sorted(draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)))
    entries = n + n * (n + 1) // 2
    values = draw(st.lists(finite, min_size=entries, max_size=entries))
    b = np.zeros((n, n))
    b[np.tril_indices(n)] = values[n:]
    return NSParams(np.array(times), np.array(values[:n]), b)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """One file for all examples of a law; each writes it before it reads it."""
    return tmp_path_factory.mktemp("solvers") / "solver.json"


def same_bits(got, expected):
    return all(
        a.dtype == np.float64 and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(got, expected, strict=True)
    )


@laws
@given(params=valid_solvers())
def test_the_round_trip_is_exact_to_the_last_bit(path, params):
    interchange.save(path, params)
    assert same_bits(interchange.load(path), params)


@laws
@given(params=valid_solvers())
def test_plain_json_reads_the_same_numbers(path, params):
    interchange.save(path, params, {"model": "digits"})
    record = json.loads(path.read_text())
    assert record["nfe"] == len(params.a)
    np.testing.assert_array_equal(record["times"], params.times)
    np.testing.assert_array_equal(record["a"], params.a)
    for i, row in enumerate(record["b"]):
        np.testing.assert_array_equal(row, params.b[i, : i + 1])
    assert record["metadata"] == {"model": "digits"}


@laws
@given(params=valid_solvers(), data=st.data())
def test_a_changed_digit_never_changes_the_numbers_unnoticed(path, params, data):
    interchange.save(path, params)
    text = path.read_text()
    numbers = text.index('"times"')
    places = [i for i in range(numbers, len(text)) if text[i].isdigit()]
    place = data.draw(st.sampled_from(places))
    digit = data.draw(st.sampled_from("0123456789"))
    assume(digit != text[place])
    path.write_text(text[:place] + digit + text[place + 1 :])
    # Beyond the precision of a double two decimals may be one and the same number.
    try:
        loaded = interchange.load(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert same_bits(loaded, params)


@pytest.mark.parametrize("digits", [("0.25", "0.26"), ("1.0", "1.1"), ("0.5,", "0.4,")])
def test_changed_digits_of_a_real_solver_are_refused(path, digits):
    interchange.save(path, solvers.midpoint(4))
    head, times, numbers = path.read_text().partition('"times"')
    assert digits[0] in numbers
    path.write_text(head + times + numbers.replace(*digits, 1))
    with pytest.raises(ValueError, match="damaged: expected sha256"):
        interchange.load(path)


def test_a_file_cut_anywhere_is_refused(path):
    interchange.save(path, solvers.heun(4))
    text = path.read_text().rstrip()
    for length in range(len(text)):
        path.write_text(text[:length])
        with pytest.raises(ValueError, match="no solver file"):
            interchange.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"no solver file at {tmp_path}/none.json"):
        interchange.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x93NUMPY\xff\xfe", "is no solver file"),
        (b"times: [0, 1]", "is no solver file"),
        (b"[1, 2, 3]", "expected format bns_jax.solver/3 or older, got None"),
        (b'{"format": "other/7"}', "bns_jax.solver/3 or older, got 'other/7'"),
        (b'{"format": "bns_jax.solver/4"}', "3 or older, got 'bns_jax.solver/4'"),
        (b'{"format": "bns_jax.solver/3"}', "holds no valid solver: no 'nfe'"),
        (b'{"format": "bns_jax.solver/2"}', "holds no valid solver"),
        (b'{"format": "bns_jax.solver/2", "nfe": "four"}', "holds no valid solver"),
    ],
)
def test_a_foreign_file_is_named(path, content, message):
    path.write_bytes(content)
    for read in (interchange.load, interchange.load_metadata):
        if read is interchange.load or "format" in message or "is no" in message:
            with pytest.raises(ValueError, match=message) as caught:
                read(path)
            assert str(path) in str(caught.value)


DEEP = 100_000
START = b'{"format": "bns_jax.solver/2", "sha256": "", '
ONE = b'"times": [0], "a": [1], "b": [[1]]'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DEEP * b"[" + DEEP * b"]", "is no solver file: it is nested too deep"),
        (b'{"format":' + DEEP * b"[" + DEEP * b"]}", "nested too deep"),
        (
            START + b'"nfe": 1000000, ' + ONE + b"}",
            "at most 1000 evaluations, got 10+$",
        ),
        (
            START + b'"nfe": 1' + 99 * b"0" + b", " + ONE + b"}",
            "at most 1000 evaluations, got 10+$",
        ),
        (START + b'"nfe": 1' + 9999 * b"0" + b", " + ONE + b"}", "is no solver file"),
        (START + b'"nfe": 1, ' + ONE.replace(b"[1]]", b"[[1]]]") + b"}", "no valid"),
        (START + b'"nfe": true, ' + ONE + b"}", "expected an integer nfe"),
        (START + b'"nfe": -1, ' + ONE + b"}", "expected -1 times"),
        (START + b'"nfe": 1, "times": 1, "a": [1], "b": [[1]]}', "lists of times"),
        (START + b'"nfe": 1, ' + ONE.replace(b"[[1]]", b"[1]") + b"}", "no valid"),
        (START + b'"nfe": 1, ' + ONE.replace(b"[1],", b"[1e999],") + b"}", "no valid"),
        (
            START + b'"nfe": 1, ' + ONE.replace(b"[1],", b"[1" + 400 * b"0" + b"],"),
            "no solver file",
        ),
        (
            START
            + b'"nfe": 1, '
            + ONE.replace(b"[0]", b"[1" + 400 * b"0" + b"]")
            + b"}",
            "holds no valid solver",
        ),
        (
            START + b'"nfe": 2, "times": [0, 0.5], "a": [1, 1], "b": [[1], [1]]}',
            r"of 1 to 2 numbers, got \[2, 2, 2\]",
        ),
    ],
)
def test_what_cannot_be_a_solver_is_refused_before_memory_is_taken(
    path, content, message
):
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            interchange.load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert peak < 2e7


@pytest.mark.parametrize("metadata", [[], 1, "text", None])
def test_metadata_without_names_are_refused(path, metadata):
    interchange.save(path, solvers.euler(1))
    text = path.read_text().replace(
        '"metadata": {}', f'"metadata": {json.dumps(metadata)}'
    )
    path.write_text(text)
    with pytest.raises(ValueError, match="expected metadata by name, got a"):
        interchange.load_metadata(path)


@pytest.mark.parametrize("number", ['"0.5"', "0"])
def test_numbers_of_another_kind_are_refused_or_float64(path, number):
    interchange.save(path, NSParams(np.zeros(1), np.zeros(1), np.zeros((1, 1))))
    text = path.read_text()
    path.write_text(text.replace('"a": [0.0]', f'"a": [{number}]'))
    try:
        loaded = interchange.load(path)
    except ValueError:
        return
    assert {leaf.dtype for leaf in loaded} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(loaded.a, 0.0)


def test_metadata_come_back(path):
    metadata = {"model": "unet", "guidance": 0.2, "val_psnr": [40.5, None], "λ": "ü"}
    interchange.save(path, solvers.euler(2), metadata)
    assert interchange.load_metadata(path) == metadata
    interchange.save(path, solvers.euler(2))
    assert interchange.load_metadata(path) == {}


def test_changed_metadata_are_refused(path):
    interchange.save(path, solvers.euler(2), {"forwards": 2320, "model": "digits"})
    whole = path.read_text()
    for there, here in ("2320", "7"), ("digits", "digit"), ("2320", "2320.0"):
        path.write_text(whole.replace(there, here))
        for read in (interchange.load, interchange.load_metadata):
            with pytest.raises(ValueError, match="damaged: expected sha256"):
                read(path)


OLDER = """{
 "format": "bns_jax.solver/%d",
 "nfe": 2,
 "metadata": {"model": "digits", "guidance": 0.2},
 "sha256": "%s",
 "times": [0.0, 0.5],
 "a": [1.0, 1.0],
 "b": [
  [0.5],
  [0.5, 0.5]
 ]
}
"""
"""Euler's two steps as the first two formats had them, and their checksums."""
OLD = {
    1: "148c2e80a0bdd5a40330a744bd69952f3e677bce2f7a0a95cd7dcfafeaefac66",
    2: "4f234bd132e2baf044f8faeafbd2bc832af58354d5d5ff92ab51fe5018d03efd",
}


@pytest.mark.parametrize("version", OLD)
def test_files_of_older_formats_are_read(path, version):
    path.write_text(OLDER % (version, OLD[version]))
    assert same_bits(interchange.load(path), solvers.euler(2))
    assert interchange.load_metadata(path) == {"model": "digits", "guidance": 0.2}
    assert interchange.load_purpose(path) == interchange.Purpose(nfe=2)
    with pytest.raises(ValueError, match="nfe: there 2, here 4"):
        interchange.load(path, expect=interchange.Purpose(nfe=4))
    with pytest.warns(UserWarning, match="does not state: prediction$"):
        interchange.load(path, expect=interchange.Purpose(nfe=2, prediction="v"))
    path.write_text(OLDER.replace("1.0, 1.0", "1.0, 1.5") % (version, OLD[version]))
    with pytest.raises(ValueError, match="damaged"):
        interchange.load(path)


def test_a_file_of_the_first_format_may_lack_metadata_or_hold_nan(path):
    """As its writer did, which checked neither."""
    named = '"metadata": {"model": "digits", "guidance": 0.2},'
    for metadata in ("", '"metadata": {"psnr": NaN},'):
        path.write_text((OLDER % (1, OLD[1])).replace(named, metadata))
        assert same_bits(interchange.load(path), solvers.euler(2))


MIB = 2**20
HUGE = {
    "anything of 64 MiB": (64 * MIB * b" ", "no solver file: expected at most"),
    "numbers": (
        b'{"nfe": 2, "a": [' + 5 * MIB * b"1," + b"1]}",
        f"expected at most {MIB + 40 * 7} bytes, got",
    ),
    "no nfe": (5 * MIB * b"[", f"expected at most {MIB} bytes, got"),
    "a thousand times a thousand": (
        b'{"nfe": 1000, "a": [' + 15 * MIB * b"1," + b"1]}",
        "no solver file: expected at most 21148576 bytes, got more",
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_file_of_absurd_size_is_refused_before_it_is_parsed(path, name):
    content, message = HUGE[name]
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            interchange.load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        path.unlink()
    assert str(path) in str(caught.value)
    # What was read, and a copy of it; a list of so many numbers is far larger.
    assert peak < 2.2 * min(len(content), 22e6)


def test_the_longest_numbers_fit_and_what_is_too_large_is_not_written(path):
    n, third = 200, np.nextafter(-1 / 3e300, 0)
    longest = NSParams(
        np.full(n, 1 / 3), np.full(n, third), np.tril(np.full((n, n), third))
    )
    interchange.save(path, longest)
    assert same_bits(interchange.load(path), longest)
    path.unlink()
    with pytest.raises(ValueError, match="at most 1000 evaluations, got 1001"):
        interchange.save(path, NSParams(*map(np.zeros, (1001, 1001, (1001, 1001)))))
    with pytest.raises(
        ValueError, match=r"may have 1048856 bytes, got .* fewer metadata"
    ):
        interchange.save(path, solvers.euler(2), {"x": MIB * "a"})
    assert not path.exists()


@pytest.mark.parametrize("depth", [500, 900, 5000, 50_000])
def test_metadata_nested_deep_come_back_or_are_refused(path, depth):
    nested = []
    for _ in range(depth):
        nested = [nested]
    try:
        interchange.save(path, solvers.euler(2), {"x": nested})
    except ValueError as error:
        assert "must be JSON values" in str(error)
    else:
        assert same_bits(interchange.load(path), solvers.euler(2))


def test_what_is_no_solver_is_not_written(tmp_path):
    upper = solvers.euler(2)._replace(b=np.ones((2, 2)))
    with pytest.raises(ValueError, match="lower triangular"):
        interchange.save(tmp_path / "bad.json", upper)
    endless = {}
    endless["x"] = endless
    for value in (object(), np.nan, [np.inf], endless, np.float32(1), {(1,): 2}):
        with pytest.raises(ValueError, match="metadata must be JSON values"):
            interchange.save(tmp_path / "bad.json", solvers.euler(2), {"x": value})
    with pytest.raises(ValueError, match="metadata must be by name, got 3"):
        interchange.save(tmp_path / "bad.json", solvers.euler(2), 3)
    assert not list(tmp_path.iterdir())


def test_a_loaded_solver_samples_as_the_saved_one(path, rng):
    params = solvers.rk4(4)
    interchange.save(path, NSParams(*(leaf.astype(np.float32) for leaf in params)))
    x0 = rng.normal(size=(2, 3))
    # One step of RK4 on x' = x multiplies by the Taylor polynomial of exp(1).
    got = bns_jax.sample(interchange.load(path), lambda t, x: x, x0)
    np.testing.assert_allclose(got, x0 * (1 + 1 + 1 / 2 + 1 / 6 + 1 / 24), rtol=1e-6)
