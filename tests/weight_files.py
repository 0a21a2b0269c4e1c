"""Weight files as others write them, made without torch: opcode by opcode."""

import io
import itertools
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np

STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.int64): "LongStorage",
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


ORDERED = "collections.OrderedDict"


def _tensors(arrays):
    """The opcodes of each tensor, and the numbers of each storage."""
    keys = {k: str(i) for i, k in enumerate(arrays)}
    opcodes = {k: tensor(a, storage(a, keys[k])) for k, a in arrays.items()}
    return opcodes, {keys[k]: a for k, a in arrays.items()}


def _numbers(array):
    """In the order of memory, whatever its strides."""
    return array.tobytes(order="A")


def archive(arrays, wrap=mapping, opcodes=None, compression=zipfile.ZIP_STORED):
    """The zip layout of torch.save, around other opcodes if given."""
    named, stored = _tensors(arrays)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as members:
        members.writestr("model/data.pkl", whole(opcodes or wrap(named)))
        members.writestr("model/byteorder", "little")
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


def safe(arrays):
    """A safetensors file."""
    import safetensors.numpy

    return safetensors.numpy.save(
        {k: np.array(a, order="C") for k, a in arrays.items()}
    )


FORMATS = {"zip": archive, "stream": stream, "pickle": network, "safetensors": safe}
