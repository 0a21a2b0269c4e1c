"""Weight files as others write them, made without torch: opcode by opcode."""

import argparse
import collections
import datetime
import functools
import io
import itertools
import pathlib
import pickle
import random
import zipfile

import jax.numpy as jnp
import numpy as np

STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.uint8): "UntypedStorage",
    np.dtype(np.complex64): "ComplexFloatStorage",
    np.dtype(jnp.bfloat16): "BFloat16Storage",
}
MAGIC = 0x1950A86A20F9469CFC6C


def plain(value):
    """The opcodes of a plain value, without the frame of a whole pickle."""
    return pickle.dumps(value, 2)[2:-1]


def name(full):
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def call(full, *args):
    return name(full) + b"(" + b"".join(args) + b"tR"


def mapping(items):
    return b"}(" + b"".join(plain(k) + v for k, v in items.items()) + b"u"


def whole(opcodes):
    return b"\x80\x02" + opcodes + b"."


def storage(array, key):
    """The reference to a storage that lies outside the pickle."""
    parts = plain("storage"), name(f"torch.{STORAGES[array.dtype]}"), plain(key)
    return b"(" + b"".join(parts) + plain("cpu") + plain(array.size) + b"tQ"


def view(stored, offset, shape, strides):
    """A tensor over the opcodes of its storage, with numbers of NumPy or not."""
    parts = number(offset), numbers(shape), numbers(strides), plain(False)
    return call("torch._utils._rebuild_tensor_v2", stored, *parts, call(ORDERED))


def tensor(array, stored):
    """The view that makes an array of its storage."""
    strides = tuple(step // array.itemsize for step in array.strides)
    return view(stored, 0, array.shape, strides)


def number(value):
    """The opcodes of a number; one of NumPy is called as such."""
    if not isinstance(value, np.generic):
        return plain(value)
    dtype = call("numpy.dtype", plain(value.dtype.str[1:]), plain(False), plain(True))
    return call("numpy.core.multiarray.scalar", dtype, plain(value.tobytes()))


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def _stored(array):
    """The opcodes of a plain tensor, whose storage is one of a file's own."""
    return tensor(array, storage(array, "foreign"))


def _scales():
    return call("torch.per_tensor_affine"), plain(0.1), plain(0)


FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)
BYTES = np.arange(6, dtype=np.uint8)

_PLACE = plain(0), plain((2, 3)), plain((3, 1))

FOREIGN = {
    "namespace": lambda: plain(argparse.Namespace(lr=1e-4, path=pathlib.Path("a/b"))),
    "counter": lambda: plain(collections.Counter("abca")),
    "defaultdict": lambda: plain(collections.defaultdict(list, {3: [1], "x": [2]})),
    "path": lambda: plain(pathlib.PurePosixPath("runs/dit")),
    "date": lambda: plain(datetime.datetime(2024, 5, 1)),
    "partial": lambda: plain(functools.partial(max, 3, key=abs)),
    "frozen set": lambda: plain(frozenset({1, 2})),
    "keys that are tuples": lambda: plain({(1, 2): 3, None: 4}),
    "numpy array": lambda: plain(np.arange(6.0).reshape(2, 3)),
    "numpy array of columns": lambda: plain(np.asfortranarray(FLOATS)),
    "numpy array, big-endian": lambda: plain(np.arange(6, dtype=">f4")),
    "numpy objects": lambda: plain(np.array([None, "x", (1, 2)], object)),
    "numpy records": lambda: plain(np.zeros(2, "f4,i8")),
    "numpy date": lambda: plain(np.array(["2024-05-01"], "M8[D]")),
    "numpy number": lambda: plain({"lr": np.float64(0.1), "on": np.bool_(1)}),
    "numpy dtype": lambda: plain([np.dtype("f8"), np.dtype(object), np.float32]),
    "random state": lambda: plain(np.random.RandomState(0).get_state()),
    "random states": lambda: plain(
        [np.random.RandomState(0), np.random.default_rng(0)]
    ),
    "python random": lambda: plain(random.Random(0).getstate()),
    "complex number": lambda: plain(1 + 2j),
    "class": lambda: plain([argparse.Namespace, collections.Counter]),
    "torch dtype": lambda: name("torch.float32"),
    "torch generator": lambda: call("torch._C.Generator"),
    "parameter": lambda: call(
        f"{REBUILD}parameter", _stored(FLOATS), plain(True), call(ORDERED)
    ),
    "parameter with attributes": lambda: call(
        f"{REBUILD}parameter_with_state",
        *(_stored(FLOATS), plain(True), call(ORDERED), plain({"kept": True})),
    ),
    "tensor of a class": lambda: call(
        "torch._tensor._rebuild_from_type_v2",
        name(f"{REBUILD}tensor_v2"),
        name("torch.nn.parameter.Buffer"),
        b"(" + storage(FLOATS, "foreign") + b"".join(_PLACE) + plain(False) + b"Nt",
        plain({"kept": True}),
    ),
    "tensor of a class that rebuilds itself": lambda: call(
        "torch._tensor._rebuild_from_type_v2",
        *(name("mine.rebuild"), name("mine.Tensor")),
        b"(" + storage(FLOATS, "foreign") + b"".join(_PLACE) + plain(False) + b"Nt",
        plain({"kept": True}),
    ),
    "tensor of a device": lambda: call(
        f"{REBUILD}device_tensor_from_numpy",
        *(plain(FLOATS), name("torch.float32"), plain("xla:0"), plain(False)),
    ),
    "tensor of a device, without numbers": lambda: call(
        f"{REBUILD}device_tensor_from_numpy",
        *(plain(None), name("torch.float32"), plain("xla:0"), plain(False)),
    ),
    "object of an old protocol": lambda: call(
        "copy_reg._reconstructor",
        *(name("mine.Settings"), name("__builtin__.object"), plain(None)),
    ),
    "object with keywords": lambda: name("mine.Settings") + b")}\x92",
    "keys that are tensors": lambda: b"}(" + _stored(FLOATS) + plain(1) + b"u",
    "conjugate tensor": lambda: call(
        f"{REBUILD}tensor_v2",
        *(storage(FLOATS, "foreign"), *_PLACE, plain(False), call(ORDERED)),
        plain({"conj": True}),
    ),
    "quantized tensor": lambda: call(
        f"{REBUILD}qtensor",
        *(storage(BYTES, "foreign"), *_PLACE),
        b"(" + b"".join(_scales()) + b"t",
        *(plain(False), call(ORDERED)),
    ),
    "sparse tensor": lambda: call(
        f"{REBUILD}sparse_tensor",
        call("torch.serialization._get_layout", plain("torch.sparse_coo")),
        b"(" + _stored(FLOATS) + plain((2, 3)) + plain(False) + b"t",
    ),
    "complex tensor": lambda: _stored(np.arange(3, dtype=np.complex64)),
    "8-bit tensor": lambda: call(
        f"{REBUILD}tensor_v3",
        *(storage(BYTES, "foreign"), *_PLACE, plain(False), call(ORDERED)),
        name("torch.float8_e4m3fn"),
        b"}",
    ),
    "tensor of an unknown dtype": lambda: call(
        f"{REBUILD}tensor_v3",
        *(storage(BYTES, "foreign"), *_PLACE, plain(False), call(ORDERED)),
        name("torch.float4_e2m1fn_x2"),
        b"}",
    ),
    "tensor elsewhere": lambda: call(
        f"{REBUILD}meta_tensor_no_storage", name("torch.float32"), plain((2, 3))
    ),
}
"""What others keep beside weights: its opcodes, made without torch."""
FOREIGN_STORAGE = {
    "quantized tensor": BYTES,
    "tensor of an unknown dtype": BYTES,
    "complex tensor": np.arange(3, dtype=np.complex64),
    "8-bit tensor": BYTES,
}

REBUILD = "torch._utils._rebuild_"
ORDERED = "collections.OrderedDict"


def _tensors(arrays):
    """The opcodes of each tensor, and the numbers of each storage."""
    keys = {k: k if k == "foreign" else str(i) for i, k in enumerate(arrays)}
    opcodes = {k: tensor(a, storage(a, keys[k])) for k, a in arrays.items()}
    return opcodes, {keys[k]: a for k, a in arrays.items()}


def _numbers(array):
    """In the order of memory, whatever its strides."""
    return array.tobytes(order="A")


def archive(
    arrays,
    wrap=mapping,
    opcodes=None,
    compression=zipfile.ZIP_STORED,
    byteorder="little",
):
    """The zip layout of torch.save, around other opcodes if given."""
    named, stored = _tensors(arrays)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as members:
        members.writestr("model/data.pkl", whole(opcodes or wrap(named)))
        members.writestr("model/byteorder", byteorder)
        for key, array in stored.items():
            members.writestr(f"model/data/{key}", _numbers(array))
    return file.getvalue()


def _stream(opcodes, stored, keys=None):
    system = {"protocol_version": 1001, "little_endian": True}
    keys = list(stored) if keys is None else keys
    pickles = [plain(MAGIC), plain(1001), plain(system), opcodes, plain(keys)]
    numbers = [a.size.to_bytes(8, "little") + _numbers(a) for a in stored.values()]
    return b"".join([*map(whole, pickles), *numbers])


def stream(arrays, wrap=mapping, opcodes=None, keys=None):
    """The older layout of torch.save, with other keys of its storages if given."""
    named, stored = _tensors(arrays)
    return _stream(opcodes or wrap(named), stored, keys)


def _layer(kind, state):
    """A layer of torch: an object of a class, and then its state."""
    return name(kind) + b")\x81" + mapping(state) + b"b"


def _persistent(kind, state):
    """An object that brings the source code of its class."""
    source = "raise SystemExit('this code must not run')"
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": kind}
    items = {key: plain(value) for key, value in meta.items()}
    meta = mapping({**items, "state": mapping(state)})
    return call("torch_utils.persistence._reconstruct_persistent_obj", meta)


def _network(arrays, make):
    """A pickled network of the given parameters, one layer per part of a name."""
    own = {k: a for k, a in arrays.items() if "." not in k}
    parameters = {}
    for key, array in own.items():
        inner = _stream(storage(array, key), {key: array})
        stored = call("torch.storage._load_from_bytes", plain(inner))
        data = tensor(array, stored)
        rebuilt = data, plain(True), call(ORDERED)
        parameters[key] = call("torch._utils._rebuild_parameter", *rebuilt)
    children = {}
    inside = sorted(k for k in arrays if "." in k)
    for head, keys in itertools.groupby(inside, lambda k: k.partition(".")[0]):
        part = {k.partition(".")[2]: arrays[k] for k in keys}
        kind = "torch.nn.modules.container.ModuleDict"
        children[head] = _network(part, lambda s, kind=kind: _layer(kind, s))
    state = {
        "training": plain(False),
        "skip_scale": number(np.float64(0.5)),
        "_parameters": mapping(parameters),
        "_buffers": mapping({"absent": plain(None)}),
        "_modules": mapping(children),
    }
    return make(state)


def network(arrays, kind="EDMPrecond", sigma_data=0.5, **settings):
    """A pickled network as EDM publishes it: classes with their source code."""
    settings = {"sigma_data": sigma_data, **settings}
    told = {key: number(value) for key, value in settings.items() if value is not None}
    opcodes = _network(arrays, lambda state: _persistent(kind, told | state))
    loss = _persistent("EDMLoss", {"P_mean": plain(-1.2)})
    return whole(mapping({"ema": opcodes, "loss_fn": loss}))


def wrapped(arrays, kind, sigma_data):
    """The opcodes of such a network inside of a layer that runs it on many devices."""
    told = {"sigma_data": plain(sigma_data)}
    inner = _network(arrays, lambda state: _persistent(kind, told | state))
    parallel = "torch.nn.parallel.data_parallel.DataParallel"
    return _layer(parallel, {"_modules": mapping({"module": inner})})


def safe(arrays):
    """A safetensors file."""
    import safetensors.numpy

    return safetensors.numpy.save(
        {k: np.array(a, order="C") for k, a in arrays.items()}
    )


FORMATS = {"zip": archive, "stream": stream, "pickle": network, "safetensors": safe}
