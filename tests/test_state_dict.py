"""Laws of reading weights of others: exact, in every format, and no code runs."""

import collections
import functools
import os
import pickle
import tracemalloc
import warnings
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax.models import state_dict
from bns_jax.models.tensors import Tensors
from tests import weight_files
from tests.weight_files import (
    FOREIGN,
    FOREIGN_STORAGE,
    FORMATS,
    call,
    mapping,
    plain,
    whole,
)


def drawn(rng):
    return {
        "head.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "head.bias": rng.normal(size=3).astype(np.float16),
        "blocks.0.norm.weight": rng.normal(size=5).astype(jnp.bfloat16),
        "blocks.0.turned": rng.normal(size=(4, 2)).T,
        "steps": np.array(7),
    }


ARRAYS = drawn(np.random.default_rng(0))


@pytest.fixture
def read(tmp_path):
    def from_bytes(data):
        path = tmp_path / "weights.pt"
        path.write_bytes(data)
        return state_dict.read(path)

    return from_bytes


def assert_same(got, expected):
    assert set(got) == set(expected)
    for key, array in expected.items():
        assert (got[key].dtype, got[key].shape) == (array.dtype, array.shape)
        assert np.all(got[key] == array)


@pytest.mark.parametrize("kind", list(FORMATS))
def test_every_format_is_read_exactly(read, kind):
    assert_same(read(FORMATS[kind](ARRAYS)), ARRAYS)


@pytest.mark.parametrize("kind", list(FORMATS))
def test_large_tensors_are_read(read, kind):
    """The bounds on what a file may take hold where it is nothing but numbers."""
    arrays = {"layer.weight": np.zeros((300, 200), np.float32), "bias": np.zeros(999)}
    assert_same(read(FORMATS[kind](arrays)), arrays)


@pytest.mark.parametrize("length", range(1, 34))
def test_a_header_of_any_length_is_read(read, length):
    """The length of a safetensors header may look like the start of a pickle."""
    arrays = {"x" * length * 8: np.ones(3)}
    assert_same(read(weight_files.safe(arrays)), arrays)


def small(value):
    return {"a": np.full((2, 2), value), "b": np.full(2, value)}


PLACES = {
    "ema before model": {"model": small(0), "ema": small(1), "step": 9},
    "an empty ema": {"ema": {}, "model": small(1)},
    "no ema": {"ema": None, "net": small(1)},
    "an ema of shadows": {
        "ema": {"decay": 0.999, "shadow": small(1)},
        "model": small(0),
    },
    "model_ema": {"state_dict": small(0), "model_ema": small(1)},
    "ema_model": {"ema_model": small(1), "model": small(0)},
    "ema_state_dict": {"model_state_dict": small(0), "ema_state_dict": small(1)},
    "net": {"net": small(1), "optimizer_state": {"state": {0: small(0)}}},
    "model_state_dict": {"model_state_dict": small(1), "epoch": 3},
    "params": {"params": small(1), "version": 2},
    "one within another": {"state": {"model": small(1)}},
    "any one": {"generator": small(1), "rng": np.zeros(4, np.uint8)},
    "of a wrapper": {f"module.{name}": x for name, x in small(1).items()},
    "of two wrappers": {f"_orig_mod.module.{n}": x for n, x in small(1).items()},
    "of torch's average": {
        "n_averaged": np.array(7),
        **{f"module.{name}": x for name, x in small(1).items()},
    },
    "in a training state": {"model": {f"module.{n}": x for n, x in small(1).items()}},
}


@pytest.mark.parametrize("place", list(PLACES))
def test_weights_are_found_where_training_scripts_put_them(read, place):
    assert_same(read(pickle.dumps(PLACES[place], 4)), small(1))


AVERAGES = [
    "ema",
    "EMA",
    "params_ema",
    "ema_params",
    "ema_weights",
    "weights_ema",
    "model_ema",
    "ema_model",
    "modelEMA",
    "module_ema",
    "ema_state_dict",
    "state_dict_ema",
    "average_model",
    "averaged_model",
    "model_avg",
    "swa_model",
    "ema_0.9999",
    "net_ema",
    "G_ema",
    "shadow",
]


@pytest.mark.parametrize("raw", ["model", "params", "state_dict", "net", "G", "module"])
@pytest.mark.parametrize("name", AVERAGES)
def test_averaged_weights_are_read_by_whatever_name(read, name, raw):
    for content in (
        {raw: small(0), name: small(1)},
        {
            name: small(1),
            "epoch": 3,
            "optimizer": {"state": {0: small(0)}},
            raw: small(0),
        },
        {"training": {raw: small(0), name: {"decay": 0.9, "shadow": small(1)}}},
        {raw: small(0), "callbacks": {name: {"decay": np.array(0.9), "w": small(1)}}},
        {name: {f"module.{k}": v for k, v in small(1).items()}, raw: small(0)},
    ):
        assert_same(read(pickle.dumps(content, 4)), small(1))


def prefixed(prefix, values):
    return {f"{prefix}.{name}": value for name, value in values.items()}


@pytest.mark.parametrize("wrapped", ["raw", "average"])
def test_an_average_is_matched_whichever_of_the_two_is_wrapped(read, wrapped):
    raw, average = small(0), small(1)
    if wrapped == "raw":
        raw, expected = prefixed("model", raw), prefixed("model", average)
    else:
        average, expected = prefixed("model", average), small(1)
    assert_same(read(pickle.dumps({"model": raw, "ema": average}, 4)), expected)


DOTTED = {"down.0.weight": np.zeros((2, 2)), "down.0.bias": np.zeros(2)}
ONES = {name: value + 1 for name, value in DOTTED.items()}
WITHOUT_DOTS = {name.replace(".", ""): value for name, value in ONES.items()}
COUNTERS = {"decay": np.array(0.9), "num_updates": np.array(3)}


@pytest.mark.parametrize(
    "content",
    [
        prefixed("model", DOTTED) | prefixed("model_ema", ONES),
        prefixed("model_ema", WITHOUT_DOTS | COUNTERS) | prefixed("model", DOTTED),
        prefixed("online_model", DOTTED) | prefixed("ema_model", ONES) | COUNTERS,
        prefixed("ema_model", ONES) | COUNTERS,
        DOTTED | prefixed("ema", ONES),
        {"model": DOTTED, "ema": WITHOUT_DOTS | COUNTERS},
    ],
    ids=["prefix", "no dots", "wrapper", "counters", "no prefix", "nested"],
)
def test_averaged_weights_among_others_are_told_by_their_prefix(read, content):
    assert_same(read(pickle.dumps(content, 4)), ONES)
    if not any(isinstance(value, dict) for value in content.values()):
        assert_same(read(weight_files.safe(content)), ONES)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (
            {"model": small(0), "ema_0.99": small(1), "ema_0.999": small(2)},
            "0.99.*0.999",
        ),
        ({"params": small(0), "ema": small(1), "swa": small(2)}, "'ema', in 'swa'"),
        ({"model": small(0), "ema": ONES}, "in 'model', in 'ema'"),
        (prefixed("ema", ONES) | prefixed("swa", ONES) | DOTTED, "in 'ema', in 'swa'"),
    ],
)
def test_averages_that_may_be_others_are_named(read, content, named):
    with pytest.raises(ValueError, match=f"several sets of tensors: .*{named}"):
        read(pickle.dumps(content, 4))


def test_a_layer_may_have_any_name(read):
    layers = prefixed("average", DOTTED) | prefixed("schema", {"weight": np.ones(3)})
    assert_same(read(pickle.dumps(layers, 4)), layers)


@pytest.mark.parametrize("holder", [list, tuple, lambda of: {"loss": next(iter(of))}])
def test_an_average_of_something_else_is_passed_over_aloud(read, holder):
    beside = {"model": small(1), "model_ema": holder(small(0).values())}
    with pytest.warns(UserWarning, match=r"in \['model_ema'\]: those of 'model'"):
        assert_same(read(pickle.dumps(beside, 4)), small(1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"G": small(0), "D": small(1)}, "several sets of tensors: in 'G', in 'D'"),
        ({"x": small(0)["a"], "D": small(1), "E": small(1)}, "in 'E', itself"),
        ({"ema": {}, "epoch": 3}, r"got \{'ema': dict, 'epoch': int\}"),
        ({"shadow_params": [small(0)]}, r"got \{'shadow_params': list\}"),
        ({"module.a": 1, "b": "text"}, r"got \{'module.a': int, 'b': str\}"),
        ([small(1)], "got list"),
    ],
)
def test_where_no_one_set_is_found_the_keys_are_listed(read, content, message):
    with pytest.raises(ValueError, match=message):
        read(pickle.dumps(content, 4))


def test_averaged_weights_without_names_are_passed_over_aloud(read):
    shadows = {"decay": 0.9, "shadow_params": list(small(0).values())}
    with pytest.warns(UserWarning, match=r"in \['ema'\]: those of 'model' are read"):
        assert_same(
            read(pickle.dumps({"ema": shadows, "model": small(1)}, 4)), small(1)
        )


@pytest.mark.parametrize("kind", list(FORMATS))
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(read, kind, share):
    data = FORMATS[kind](ARRAYS)
    with pytest.raises(ValueError, match=r"weights\.pt was not read"):
        read(data[: int(share * len(data))])


@pytest.mark.parametrize("kind", list(FORMATS))
def test_damage_is_an_error_of_one_kind_or_none(read, kind):
    data, rng = FORMATS[kind](ARRAYS), np.random.default_rng(0)
    for place in rng.integers(len(data), size=60):
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.integers(8)
        try:
            read(bytes(damaged))
        except ValueError as error:
            assert "weights.pt was not read" in str(error)


class Attack:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.mkdir, eval, getattr, __import__])
def test_a_pickle_that_wants_to_run_code_runs_none(read, tmp_path, protocol, function):
    target = tmp_path / "made"
    args = {
        os.mkdir: (str(target),),
        eval: (f"__import__('os').mkdir({str(target)!r})",),
        getattr: ("text", "upper"),
        __import__: ("os",),
    }[function]
    data = pickle.dumps({"a": Attack(function, *args)}, protocol)
    wanted = rf"expected tensors by name.*'a': .*\.{function.__name__}\}}"
    if protocol >= 2:  # earlier ones have no mark at their start
        with pytest.raises(ValueError, match=wanted):
            read(data)
    opcodes = data[:-1] if protocol < 2 else data[2:-1]
    if protocol <= 3:  # later ones have frames
        for kind in ("zip", "stream"):
            with pytest.raises(ValueError, match=wanted):
                read(FORMATS[kind]({}, opcodes=opcodes))

            def beside(tensors):
                return mapping({"attack": opcodes, "model": mapping(tensors)})

            assert_same(read(FORMATS[kind](ARRAYS, beside)), ARRAYS)
    assert not target.exists()


@pytest.mark.parametrize("kind", list(FOREIGN))
@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_what_is_foreign_beside_weights_leaves_them_alone(read, layout, kind):
    opcodes = FOREIGN[kind]()
    extra = {"foreign": FOREIGN_STORAGE.get(kind, weight_files.FLOATS)}
    extra = extra if b"foreign" in opcodes else {}
    stored = ARRAYS | extra

    def beside(tensors):
        good = {k: v for k, v in tensors.items() if k != "foreign"}
        return mapping({"args": opcodes, "model": mapping(good), "more": opcodes})

    def among(tensors):
        return mapping({**tensors, "foreign": opcodes})

    assert_same(read(FORMATS[layout](stored, beside)), ARRAYS)
    got = read(FORMATS[layout](stored, among))
    assert_same({k: v for k, v in got.items() if k != "foreign"}, ARRAYS)
    # What is a tensor is read, or said to be none; all else is left out.
    is_tensor = "tensor" in kind or "array" in kind or "parameter" in kind
    is_tensor |= kind in ("numpy objects", "numpy records", "numpy date")
    is_tensor &= "keys" not in kind
    assert is_tensor == ("foreign" in {*got, *got.unread})
    if "foreign" in got.unread:
        with pytest.raises(ValueError, match="foreign is a "):
            read(FORMATS[layout](extra, lambda _: mapping({"foreign": opcodes})))


READ = {
    "numpy array": np.arange(6.0).reshape(2, 3),
    "numpy array of columns": weight_files.FLOATS,
    "numpy array, big-endian": np.arange(6, dtype=np.float32),
    "parameter": weight_files.FLOATS,
    "parameter with attributes": weight_files.FLOATS,
    "tensor of a class": weight_files.FLOATS,
    "tensor of a device": weight_files.FLOATS,
    "complex tensor": np.arange(3, dtype=np.complex64),
    "8-bit tensor": weight_files.BYTES.view(jnp.float8_e4m3fn).reshape(2, 3),
}


@pytest.mark.parametrize("kind", list(READ))
def test_arrays_of_other_kinds_are_read_exactly(read, kind):
    stored = {"foreign": FOREIGN_STORAGE.get(kind, weight_files.FLOATS)}
    opcodes = mapping({"x": FOREIGN[kind]()})
    (got,) = read(weight_files.archive(stored, opcodes=opcodes)).values()
    np.testing.assert_array_equal(got, READ[kind])
    assert got.dtype.newbyteorder("=") == READ[kind].dtype
    assert not got.flags.writeable


@pytest.mark.parametrize("kind", ["zip", "stream"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_a_tensor_of_no_numbers_is_read(read, kind, shape):
    arrays = {"empty": np.zeros(shape, np.float16), "weight": np.ones((2, 3))}
    assert_same(read(FORMATS[kind](arrays)), arrays)


def pointing(*parts, shape=(3,)):
    """A tensor in a storage that a persistent id of parts names."""
    stored = b"(" + b"".join(parts) + b"tQ"
    return mapping({"x": weight_files.view(stored, 0, shape, (1,))})


THREE = np.arange(3, dtype=np.float32)
STORAGE, FLOAT = plain("storage"), weight_files.name("torch.FloatStorage")
PLACE, RECONSTRUCT = plain("cpu"), "numpy.core.multiarray._reconstruct"
REFUSED = {
    "a key that is a number": (
        pointing(STORAGE, FLOAT, plain(0), PLACE, plain(3)),
        "a storage whose key is a int",
    ),
    "a view of a storage": (
        pointing(STORAGE, FLOAT, plain("0"), PLACE, plain(3), plain((0, 0, 3))),
        "a view of a storage",
    ),
    "a storage without its numbers": (
        call("torch.FloatStorage", plain(3)),
        "names a storage without its numbers",
    ),
    "a storage in a text": (
        call("torch.storage._load_from_bytes", plain("text")),
        "holds a storage in a str",
    ),
    "a shape that is a text": (
        call(
            "torch._utils._rebuild_tensor_v2",
            *(weight_files.storage(THREE, "0"), plain(0), plain("3"), plain((1,))),
        ),
        "a shape or strides of kind str",
    ),
    "an array of less than nothing": (
        call(RECONSTRUCT)
        + b"("
        + plain(1)
        + plain((-1, 3))
        + call("numpy.dtype", plain("f4"))
        + plain(False)
        + plain(bytes(12))
        + b"tb",
        r"an array of shape \(-1, 3\)",
    ),
    "a call of a text": (plain("text") + b")R", "calls a str"),
    "a call with a list": (
        weight_files.name("torch.Size") + plain([1]) + b"R",
        "calls with a list of arguments",
    ),
}


@pytest.mark.parametrize("kind", ["zip", "stream"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_program_writes_is_refused_by_its_name(read, kind, name):
    opcodes, message = REFUSED[name]
    with pytest.raises(ValueError, match=rf"weights\.pt was not read: .*{message}"):
        read(FORMATS[kind]({"x": THREE}, opcodes=opcodes))


def test_an_archive_of_big_endian_numbers_is_refused(read):
    with pytest.raises(ValueError, match="holds big-endian numbers"):
        read(weight_files.archive(ARRAYS, byteorder="big"))


@pytest.mark.parametrize("count", [2, 4])
def test_a_storage_of_another_length_is_refused(read, count):
    opcodes = pointing(STORAGE, FLOAT, plain("0"), PLACE, plain(count), shape=(2,))
    with pytest.raises(ValueError, match=f"storage 0 has 3 of {count}"):
        read(weight_files.archive({"x": THREE}, opcodes=opcodes))


def test_a_storage_of_an_unknown_kind_leaves_the_others_alone(read):
    odd = weight_files.storage(THREE, "foreign").replace(b"FloatS", b"Float4S")
    odd = weight_files.view(odd, 0, (3,), (1,))
    wrap = lambda tensors: mapping({**tensors, "odd": odd})  # noqa: E731
    got = read(weight_files.archive(ARRAYS, wrap))
    assert_same(got, ARRAYS)
    assert list(got.unread) == ["odd"]


@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_set_of_a_new_protocol_is_read_past(read, kind):
    content = {"seen": kind([1, (2, 3)]), "model": small(1)}
    assert_same(read(pickle.dumps(content, 4)), small(1))


def test_a_class_with_its_source_is_left_unread(read):
    """So the older layout keeps the classes of a network that was pickled whole."""
    parts = (
        plain("module"),
        weight_files.name("mine.Net"),
        plain("net.py"),
        plain("1/0"),
    )
    made = b"(" + b"".join(parts) + b"tQ" + b")\x81"
    data = weight_files.stream(
        ARRAYS, lambda tensors: mapping({"net": made, "model": mapping(tensors)})
    )
    assert_same(read(data), ARRAYS)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_numpy_arrays_are_read_in_every_protocol(read, protocol):
    arrays = {k: v for k, v in ARRAYS.items() if v.dtype != jnp.bfloat16}
    for made in (arrays, {"model": arrays, "opt": collections.Counter("aab")}):
        assert_same(read(pickle.dumps(made, protocol)), arrays)


def test_stand_ins_cannot_be_changed(read):
    changed = weight_files.name("torch._utils._rebuild_tensor_v2") + mapping({}) + b"b"
    with pytest.raises(ValueError, match="wants to change torch"):
        read(whole(changed))


def one_tensor(kind, offset, shape, strides, after=b""):
    """A file of one tensor over twelve numbers, and opcodes applied to it."""
    array = np.arange(12, dtype=np.float32)
    made = weight_files.view(weight_files.storage(array, "0"), offset, shape, strides)
    return FORMATS[kind]({"x": array}, opcodes=mapping({"x": made + after}))


@pytest.mark.parametrize("kind", ["zip", "stream"])
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (3, 5), (5, 1)),
        (1, (12,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (11, 1)),
        # In the types of NumPy the place of the last number wraps around.
        (0, (np.int16(300),), (np.int16(120),)),
        (np.int8(100), (30,), (1,)),
        (np.uint8(250), (8,), (1,)),
        (np.int64(2**62), (3,), (np.int64(2**62),)),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(read, kind, offset, shape, strides):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="a tensor of shape"):
            read(one_tensor(kind, offset, shape, strides))


@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_a_tensor_may_have_numbers_of_numpy_and_cannot_be_written_to(read, kind):
    place = np.int8(1), (np.int16(3), 2), (np.uint8(4), np.int64(1))
    (got,) = read(one_tensor(kind, *place)).values()
    np.testing.assert_array_equal(got, [[1, 2], [5, 6], [9, 10]])
    assert not got.flags.writeable
    (same,) = read(
        one_tensor(kind, *place, after=plain(0) + plain(9.0) + b"s")
    ).values()
    np.testing.assert_array_equal(same, got)


@pytest.mark.parametrize("keys", [[], ["0"], ["0", "0"], ["0", "2"], ["0", "1", "2"]])
def test_every_storage_has_its_numbers_once(read, keys):
    """Of one left out, the memory's former content would be read."""
    ones = {"a": np.ones(3), "b": np.ones(3)}
    with pytest.raises(ValueError, match="the storages are not those"):
        read(weight_files.stream(ones, keys=keys))


def test_only_a_storage_has_tensors(read):
    """A tensor of one number repeated is longer than what it lies in."""
    array = np.zeros(1, np.float32)
    repeated = weight_files.view(weight_files.storage(array, "0"), 0, (9,), (0,))
    posing = call(weight_files.ORDERED) + mapping({"values": repeated}) + b"b"
    outside = weight_files.view(posing, 0, (9,), (1,))
    with pytest.raises(ValueError, match="not read"):
        read(weight_files.archive({"x": array}, opcodes=mapping({"x": outside})))


MUCH = 1 << 25
EIGHT_BYTES = MUCH.to_bytes(8, "little")
REMEMBERED, RECALLED = b"q\xff", b"h\xff"
SMALL = np.zeros(1, np.float32)
LARGE = np.zeros(1 << 15, np.float32)


def nested(depth):
    """Tuples of few bytes and long names: each holds the one before it twice."""
    return plain(()) + depth * b"2\x86"


def copies(of, function, count):
    """One thing, remembered, and many calls that copy it."""
    remembered = of + REMEMBERED + weight_files.name(function) + b"q\xfe"
    return remembered + count * (b"h\xfe" + RECALLED + b"\x85R")


GREEDY = {
    "a place to remember": whole(plain(1) + b"r" + (MUCH >> 4).to_bytes(4, "little")),
    "bytes announced": whole(b"\x8e" + EIGHT_BYTES),
    "bytes announced, to be changed": whole(b"\x96" + EIGHT_BYTES),
    "bytes by number": whole(call("_codecs.encode", plain(MUCH))),
    "copies of a text": whole(copies(plain("x" * 99_999), "_codecs.encode", 999)),
    "copies of a list": whole(copies(plain([1] * 9999), "torch.Size", 999)),
    "copies of a text in arrays": whole(
        plain("x" * 99_999)
        + REMEMBERED
        + call("numpy.dtype", plain("f4"))
        + b"q\xfe"
        + 999
        * (
            call("numpy.core.multiarray._reconstruct")
            + b"("
            + plain(1)
            + plain((3,))
            + b"h\xfe\x89"
            + RECALLED
            + b"tb"
        )
    ),
    "a long class name": whole(
        call(
            "torch_utils.persistence._reconstruct_persistent_obj",
            mapping({"class_name": nested(22), "state": mapping({})}),
        )
    ),
    "a long reference": whole(nested(22) + b"Q"),
    "a repeated number": weight_files.archive(
        {"x": SMALL},
        opcodes=call(
            "torch.Size",
            weight_files.view(weight_files.storage(SMALL, "0"), 0, (MUCH >> 2,), (0,)),
        ),
    ),
    "deflated numbers": weight_files.archive(
        {"x": np.zeros(MUCH >> 2, np.float32)}, compression=zipfile.ZIP_DEFLATED
    ),
    "many storages": weight_files.stream(
        {"x": LARGE},
        opcodes=mapping(
            {
                key: weight_files.tensor(LARGE, weight_files.storage(LARGE, key))
                for key in map(str, range(300))
            }
        ),
        keys=[str(key) for key in range(300)],
    ),
}


@pytest.mark.parametrize("kind", list(GREEDY))
def test_a_small_file_takes_little_memory(read, kind):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"weights\.pt was not read"):
            read(GREEDY[kind])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4e6


def test_numbers_that_no_weight_needs_are_not_read(tmp_path):
    stored = {"a": SMALL, "foreign": np.zeros(MUCH >> 2, np.float32)}

    def training(opcodes):
        optimizer = mapping({"exp_avg": opcodes["foreign"]})
        return mapping({"model": mapping({"a": opcodes["a"]}), "opt": optimizer})

    data = weight_files.archive(stored, training)
    assert len(data) > MUCH
    path = tmp_path / "training.pt"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        got = state_dict.read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert_same(got, {"a": SMALL})
    assert peak < 1e6


@pytest.mark.parametrize("shape", [(MUCH,), (1 << 40, 1 << 40)])
def test_a_tensor_repeats_few_numbers_at_most(read, shape):
    (got,) = read(one_tensor("zip", 3, (2, 500), (1, 0))).values()
    np.testing.assert_array_equal(got, [500 * [3], 500 * [4]])
    with pytest.raises(ValueError, match="a tensor of shape"):
        read(one_tensor("zip", 0, shape, len(shape) * (0,)))


KIND = "torch.nn.modules.container.Module"


def layer(state):
    """A layer of torch, or one without a state if that is empty."""
    return weight_files.name(KIND) + b")\x81" + state


def recurrent(names):
    """A layer, and itself inside of it as often as there are names."""
    inside = mapping({"_modules": mapping(dict.fromkeys(names, RECALLED))})
    return layer(REMEMBERED + inside + b"b")


def doubled(depth):
    """Layers that each hold the one before twice, under two names."""
    inner = layer(b"")
    for _ in range(depth):
        inside = mapping({"a": inner + REMEMBERED, "b": RECALLED})
        inner = layer(mapping({"_modules": inside}) + b"b")
    return inner


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (b"}" + REMEMBERED + plain("ema") + RECALLED + b"s", r"got \{'ema': dict\}"),
        (recurrent("a"), "contain one another"),
        (recurrent("ab"), "contain one another"),
        (doubled(60), "contain one another"),
        (layer(mapping({"_parameters": b"N"}) + b"b"), f"_parameters of a {KIND}"),
        (layer(mapping({"_modules": plain({7: 7})}) + b"b"), f"_modules of a {KIND}"),
    ],
    ids=["dictionary", "layer", "layer twice", "doubled", "nothing", "no names"],
)
def test_what_is_no_tree_of_layers_is_refused(read, opcodes, message):
    with pytest.raises(ValueError, match=rf"weights\.pt was not read: .*{message}"):
        read(whole(opcodes))


def test_layers_without_weights_are_refused(read):
    for opcodes in (layer(b""), doubled(3)):
        with pytest.raises(ValueError, match=f"by name, or a network, got {KIND}"):
            read(whole(opcodes))


def test_what_holds_no_weights_is_refused(read):
    for value in ({"a": 1}, [1, 2], "text"):
        with pytest.raises(ValueError, match="expected tensors by name"):
            read(pickle.dumps(value, 2))
    with pytest.raises(ValueError, match="safetensors"):
        read(b"weights: 1, 2, 3")


def test_what_holds_arrays_without_names_is_told_their_shapes(read):
    data = pickle.dumps({1: np.zeros((2, 3)), None: "text"}, 5)
    with pytest.raises(ValueError, match=r"got \{1: array \(2, 3\), None: str\}"):
        read(data)


def test_what_goes_too_deep_is_refused(read):
    data = pickle.dumps(functools.reduce(lambda held, _: {"a": held}, range(200), {}))
    depth = 20_000
    opcodes = depth * (b"}" + plain("a")) + plain(1) + depth * b"s"
    with pytest.raises(ValueError, match="it contains itself, or goes too deep"):
        read(whole(opcodes))
    with pytest.raises(ValueError, match="expected tensors by name"):
        read(data)


def test_there_are_tensors_where_one_is_unread():
    none, unread = Tensors(), Tensors()
    unread.unread["x"] = "torch.sparse"
    assert not none and unread and Tensors({"x": THREE})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"no weights file at {tmp_path}/none"):
        state_dict.read(tmp_path / "none")
    with pytest.raises(ValueError, match=f"no weights file at {tmp_path}"):
        state_dict.read(tmp_path)
