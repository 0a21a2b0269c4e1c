"""The programs of experiments/, run in the process of a test or in one of their own.

What takes time in a process of its own is to import and to compile again, so that only
what is about processes needs one: signals, locks and what stderr holds.
"""

import contextlib
import gc
import importlib
import io
import logging
import os
import pathlib
import signal
import subprocess
import sys
from typing import NamedTuple

import jax
from absl import flags
from absl import logging as absl_logging

from experiments.run import cli, preemption

ROOT = pathlib.Path(__file__).parent.parent
MODULES = {
    name: f"experiments.{name}" for name in ("digits", "compare", "distill_checkpoint")
} | {
    name: f"experiments.{name}.__main__"
    for name in ("ablations", "bench_distill", "taxonomy")
}
"""Program -> its module, which has a `main` and the configuration that it takes."""

_USUAL = {
    "jax_enable_x64": False,
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
}


class Ran(NamedTuple):
    """How a program ended: its exit status and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run(name: str, *arguments: str) -> Ran:
    """Runs a program on these flags, as its process would, inside this one."""
    module = importlib.import_module(MODULES[name])
    config = next(
        kind
        for what, kind in vars(module).items()
        if what.endswith("Config") and kind.__module__ == module.__name__
        if what != "PretrainConfig"
    )
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), usual():
        try:
            values = cli.define(config, flags.FlagValues())
            values([name, *arguments])
            module.main(cli.read(config, values))
        except SystemExit as end:
            code = 0 if end.code in (None, 0) else 1
            print(end.code or "", file=err, end="")
        except (flags.Error, ValueError) as error:
            code = 1
            print(f"error: {error}", file=err)
    return Ran(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def usual():
    """What a process has that no test has touched, and this one's again afterwards."""
    settings = {name: getattr(jax.config, name) for name in _USUAL}
    said, handler = os.environ["XLA_FLAGS"], signal.getsignal(signal.SIGTERM)
    absl = absl_logging.get_absl_logger()
    verbosity, filters = absl_logging.get_verbosity(), absl.filters[:]
    # As absl hands to stderr what is logged, once it has started a program.
    shown = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(shown)
    for setting, value in _USUAL.items():
        jax.config.update(setting, value)
    # What was there before is none of the program's, and too much to look through.
    gc.freeze()
    try:
        yield
    finally:
        for setting, value in settings.items():
            jax.config.update(setting, value)
        os.environ["XLA_FLAGS"] = said
        signal.signal(signal.SIGTERM, handler)
        logging.getLogger().removeHandler(shown)
        absl_logging.set_verbosity(verbosity)
        absl.filters[:] = filters
        preemption._received.clear()
        # Of what is gone with a process, the lock of its folder.
        gc.collect()


def started(name: str, *arguments: str) -> subprocess.Popen:
    """Starts a program in a process of its own; warnings are errors there too."""
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def in_its_process(name: str, *arguments: str) -> Ran:
    """Runs a program to its end in a process of its own."""
    with started(name, *arguments) as process:
        out, err = process.communicate()
    return Ran(process.returncode, out, err)
