"""How an experiment begins and ends: its processes, signals, errors as one line."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import platform
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from experiments.run import dump_filter
from experiments.run.config import Hosts, text

if TYPE_CHECKING:
    from jax.sharding import Mesh

_MOST_CPU_DEVICES = 8
_PROCESS_0_IS_GONE = "process 0, which listened at {}, is gone"
_HEARSAY_SECONDS = 1.0
_ending = threading.Lock()
"""Of the thread that ends the process, and says why."""


@contextlib.contextmanager
def running(config: Hosts) -> Iterator[None]:
    """The main block of an experiment.

    Errors that name what is wrong end it with that line and code 1, as does a package
    that is missing, such as the one for gs:// paths; SIGTERM or Ctrl-C ends it, once
    all is saved, with code 0. A second Ctrl-C ends it at once. Where one of several
    processes fails or dies, the others end with a line that names it, and code 1.

    Args:
      config: of the run.
    """
    from jax.errors import JaxRuntimeError

    from bns_jax import distill, parallel
    from experiments.run import compile_cache, preemption
    from experiments.run.progress import quiet

    quiet()
    compile_cache.keep()
    several = config.num_processes is not None
    if config.is_small and not several:
        _set_up_cpu()
    if several:
        dump_filter.start(_PROCESS_0_IS_GONE.format(config.coordinator_address))
    try:
        parallel.start(
            config.coordinator_address,
            config.num_processes,
            config.process_id,
            config.start_timeout,
            _end_at_once,
        )
        parallel.agree(_code(), "code")
        parallel.agree(_shared(config))
        with preemption.watched(), _print_on_main():
            yield
        parallel.finish()
    except distill.Interrupted as error:
        if parallel.is_main():
            print(f"{error}; all is saved, the same command continues", flush=True)
        parallel.finish()
    except (ValueError, OSError, ImportError) as error:
        if not several:
            sys.exit(f"error: {error}")
        _fail(str(error))
    except JaxRuntimeError as error:
        if not several:
            raise
        _fail(str(error).partition("\n")[0])
    except Exception as error:
        if not several:
            raise
        _fail(type(error).__name__, traceback.format_exc())


def _fail(reason: str, trace: str = "") -> None:
    """Ends one of several processes, and tells the others why."""
    from bns_jax import parallel

    # It may have failed because another is gone, which is then what to say.
    time.sleep(_HEARSAY_SECONDS)
    with _ending:
        os.write(2, trace.encode())
        _say_last(reason)
        parallel.finish(reason)
        os._exit(1)


def _end_at_once(reason: str) -> None:
    """Ends one of several processes because of another.

    Not in good order, in which jax would wait for that one.
    """
    with _ending:
        _say_last(reason)
        os._exit(1)


def _say_last(reason: str) -> None:
    sys.stdout.flush()
    os.write(2, f"error: {reason}\n".encode())


def _code() -> dict[str, str]:
    """What runs: the versions, and a digest of the sources."""
    import jax

    import bns_jax
    import experiments

    digest = hashlib.sha256()
    for package in (bns_jax, experiments):
        for path in sorted(pathlib.Path(package.__path__[0]).rglob("*.py")):
            digest.update(path.read_bytes())
    return {
        "bns_jax": f"{bns_jax.__version__} ({digest.hexdigest()[:12]})",
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _shared(config: Hosts) -> dict[str, str]:
    """All options but those that the processes of a run do not share."""
    named = ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
    return {name: text(value) for name, value in named if name != "process_id"}


def mesh(config: Hosts) -> Mesh | None:
    """The devices of --devices; None for a single one.

    Raises:
      ValueError: if there are fewer, or some would be left out of several processes'.
    """
    import jax

    from bns_jax import parallel

    there, count = jax.devices(), config.devices or jax.device_count()
    if count > len(there) or (jax.process_count() > 1 and count < len(there)):
        raise ValueError(
            f"--devices={count}: there are {len(there)}, in {jax.process_count()} "
            "processes, which must all take part"
        )
    return parallel.data_mesh(there[:count]) if count > 1 else None


def _set_up_cpu() -> None:
    """Sets up JAX on a CPU for a small network, where the user says nothing else."""
    said = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in said:
        _split_cpu()
    if "xla_backend_optimization_level" not in said and _has_only_cpu():
        # A quarter of the main job is to compile. The large operations are library
        # calls; what LLVM makes of the others runs as fast at -O1 as at -O3.
        os.environ["XLA_FLAGS"] = f"{said} --xla_backend_optimization_level=1"


def _split_cpu() -> None:
    """Makes several devices of a CPU, unless JAX is told how many.

    Each works on a share of the batch by itself. As one device, XLA divides every
    operation among the cores, and those of a small network are too short for that.
    """
    import jax

    if jax.config.jax_num_cpu_devices < 0:  # type: ignore[attr-defined]
        cores = min(_cores(), _MOST_CPU_DEVICES)
        # A power of two, as batches often are multiples of one.
        jax.config.update("jax_num_cpu_devices", 2 ** (cores.bit_length() - 1))


def _has_only_cpu() -> bool:
    """Whether JAX will start on the CPU; asking JAX itself would start it."""
    import jax

    installed = entry_points(group="jax_plugins") or any(
        importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")
    )
    return jax.config.jax_platforms == "cpu" or not installed  # type: ignore[attr-defined]


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _print_on_main() -> Iterator[None]:
    from bns_jax import parallel

    if parallel.is_main():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
