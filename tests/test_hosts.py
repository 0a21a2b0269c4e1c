"""One device, eight devices, two processes of four: the same numbers."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from bns_jax import distill, parallel

from . import hosts_job
from .laws import first_of

# The first test waits for the fixture, and so for every layout.
pytestmark = pytest.mark.timeout(1200)

ROOT = pathlib.Path(__file__).parent.parent
LAYOUTS = ("eight devices", "two processes")


@contextlib.contextmanager
def reserved_port():
    """A port that nobody else is given; the coordinator can share it, as gRPC does."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextlib.contextmanager
def two_processes(folder):
    """The job as two processes, which are gone in the end."""
    with reserved_port() as port:
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.hosts_job", str(i), str(port), folder],
                cwd=ROOT,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i in range(2)
        ]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the job gives on each layout, continued from a run on eight devices."""
    folder = tmp_path_factory.mktemp("hosts")
    eight = parallel.data_mesh()
    data = hosts_job.make_pairs(eight, 37, 0), hosts_job.make_pairs(eight, 31, 1)
    with pytest.raises(distill.Interrupted):
        hosts_job.fit(
            eight,
            data,
            distill.adam(1e-2),
            checkpoint=folder / "checkpoint",
            stop=hosts_job.stop_after(hosts_job.STOPPED_AT),
        )
    shutil.copytree(folder / "checkpoint", folder / "checkpoint_of_one")
    with two_processes(folder) as workers:
        one = hosts_job.run(None, folder / "checkpoint_of_one")
        # The run on eight devices is not interrupted.
        found = {"one device": one, "eight devices": hosts_job.run(eight)}
        for worker in workers:
            said, _ = worker.communicate(timeout=900)
            assert worker.returncode == 0, said
    with np.load(folder / "results.npz") as arrays:
        found["two processes"] = dict(arrays)
    return found


TOLERANCES = {
    "pairs": 1e-9,
    "path": 1e-9,
    "pairs32": 1e-5,
    "evaluate": 1e-9,
    "gauss_newton": 1e-6,
    "adam": 1e-6,
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TOLERANCES)
def test_every_layout_gives_the_numbers_of_one_device(results, layout, name):
    """The run of one device and that of two processes go on where eight stopped."""
    got, expected = results[layout][name], results["one device"][name]
    assert got.dtype == expected.dtype
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(
        got, expected, rtol=TOLERANCES[name], atol=TOLERANCES[name] * scale
    )


@pytest.mark.exhaustive
def test_differing_flags_of_two_processes_are_named(results):
    said = str(results["two processes"]["refusal"])
    assert "--seed: 0 on process 0, 1 on process 1" in said
    assert "guidance" not in said


def test_the_weights_were_laid_over_the_devices():
    laid = parallel.fsdp(hosts_job.vector_field(), parallel.data_mesh(), least=8)
    (weights,) = jax.tree.leaves(laid)
    assert {shard.data.shape for shard in weights.addressable_shards} == {(1, 8)}


ENDING = """
import dataclasses, os, time
from experiments.run import cli, session
from experiments.run.config import Hosts, option

@dataclasses.dataclass(frozen=True)
class Config(Hosts):
    folder: str = option("", "of marks")
    failing: str = option("", "whether process 0 fails, or the other")

def main(config):
    with session.running(config):
        from bns_jax import parallel
        for step in range(10_000):
            parallel.gather_text("together")
            if step == 5:
                open(f"{config.folder}/{os.getpid()}", "w").close()
            if step == 9 and config.failing == str(int(parallel.is_main())):
                raise OSError("no space left on the disk")
            time.sleep(0.05)

cli.launch(main, Config)
"""


@contextlib.contextmanager
def pair_that_ends(folder, *flags):
    """Two processes that talk to each other, once both are at work."""
    with reserved_port() as port:
        shared = [f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2"]
        command = [sys.executable, "-c", ENDING, *shared]
        pair = [
            subprocess.Popen(
                [*command, f"--process_id={i}", f"--folder={folder}", *flags],
                cwd=ROOT,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(2)
        ]
        try:
            while len(list(folder.iterdir())) < 2:
                assert all(process.poll() is None for process in pair)
                time.sleep(0.05)
            yield pair, port
        finally:
            for process in pair:
                process.kill()
                process.communicate()


@pytest.mark.exhaustive
@pytest.mark.parametrize("killed", first_of([0, 1], 0))
def test_when_a_process_is_killed_the_other_ends_with_a_line(tmp_path, killed):
    """Not after jax's own 100 seconds, and without its dump."""
    with pair_that_ends(tmp_path) as (pair, port):
        pair[killed].kill()
        _, said = pair[1 - killed].communicate(timeout=60)
    where = f", which listened at 127.0.0.1:{port}," if killed == 0 else ""
    assert re.fullmatch(
        rf"error: process {killed}( of 2)?{where} (has died|is gone)\n", said
    )
    assert pair[1 - killed].returncode != 0


@pytest.mark.exhaustive
def test_when_process_0_fails_alone_the_other_ends_with_its_reason(tmp_path):
    with pair_that_ends(tmp_path, "--failing=1") as (pair, _):
        said = [process.communicate(timeout=60)[1] for process in pair]
    assert said == [
        "error: no space left on the disk\n",
        "error: process 0 of 2 failed: no space left on the disk\n",
    ]
    assert [process.returncode for process in pair] == [1, 1]
