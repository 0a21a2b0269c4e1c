"""Settings of the suite: float64, nothing implicit, eight devices, quick compiling."""

import gc
import os
import tempfile
import zlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What takes time here, and in the programs that tests start, is to compile.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["XLA_FLAGS"] = ""
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":
    # XLA's older emitters of kernels take half the time; newer jax has lost them, and
    # reads over this.
    older = "xla_cpu_disable_new_fusion_emitters"
    # Programs are small: to split each into parts for several threads takes longer.
    whole = "--xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"--xla_backend_extra_options={older} {whole}"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Of this run alone: its workers and its programs find the variable set.
    compiled = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Programs raise what they would warn of. An entry of the cache that another process is
# still writing is compiled again.
os.environ.setdefault(
    "PYTHONWARNINGS",
    "error,ignore:Error reading persistent compilation cache entry:UserWarning",
)

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


# Programs and their traces are many objects and hardly any garbage.
gc.set_threshold(200_000, 20, 1000)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what repeats: each value of each parameter of a test is in every run.

    All combinations of them are in the exhaustive one.
    """
    met: set[tuple] = set()
    # Scattered, so that not all solvers meet the same scheduler.
    for item in sorted(items, key=lambda item: zlib.crc32(item.nodeid.encode())):
        values = _values(item)
        if values and not item.get_closest_marker("exhaustive"):
            if values <= met:
                item.add_marker("exhaustive")
            met |= values


def pytest_collection_finish() -> None:
    """What is imported stays, and is too much to look through again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _values(item: pytest.Item) -> set[tuple]:
    """What each `parametrize`, and each fixture with parameters, gives to a test."""
    if not hasattr(item, "callspec"):
        return set()
    test, left, found = item.nodeid.partition("[")[0], dict(item.callspec.params), []
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0]
        names = names.replace(",", " ").split() if isinstance(names, str) else names
        found.append({name: left.pop(name) for name in names})
    found += [{name: value} for name, value in left.items()]
    return {
        (test, *((name, id(value)) for name, value in given.items())) for given in found
    }
