"""Laws of a run's folder: one run at a time, one configuration, a writable disk."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from etils import epath

from bns_jax import distill
from experiments import lock, preemption
from experiments.progress import Progress
from experiments.workdir import Workdir

ROOT = pathlib.Path(__file__).parent.parent
HOLD = {
    "file": "lock.hold(path)",
    "beating": "lock.BeatingLock(path / '.lock', 0.05)",
}


def hold(kind, folder):
    return eval(HOLD[kind], {"lock": lock, "path": epath.Path(folder)})


@contextlib.contextmanager
def another_process_holds(kind, folder):
    code = (
        "import sys, time; from etils import epath; from experiments import lock\n"
        f"path = epath.Path(sys.argv[1]); held = {HOLD[kind]}\n"
        "print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", HOLD)
def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path, kind):
    with another_process_holds(kind, tmp_path) as process:
        with pytest.raises(ValueError, match=f"in use by .*process {process.pid} on"):
            hold(kind, tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        held = hold(kind, tmp_path)
    with pytest.raises(ValueError, match=f"in use by .*process {os.getpid()} on"):
        hold(kind, tmp_path)
    del held
    hold(kind, tmp_path)


def test_a_claim_holds_as_long_as_its_workdir(tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.claim({"seed": "0"})
    with pytest.raises(ValueError, match="in use by another run"):
        Workdir(tmp_path / "run").claim({"seed": "0"})
    del workdir
    Workdir(tmp_path / "run").claim({"seed": "0"})


def test_flags_that_differ_are_listed_side_by_side(tmp_path):
    Workdir(tmp_path).claim({"seed": "0", "guidance": "0.2", "nfe": "4"})
    before = (tmp_path / "run.flags").read_bytes()
    with pytest.raises(ValueError) as caught:
        Workdir(tmp_path).claim({"seed": "1", "guidance": "0.5", "nfe": "8"}, ["nfe"])
    assert str(caught.value).splitlines()[1:] == [
        "  --seed: there 0, here 1",
        "  --guidance: there 0.2, here 0.5",
    ]
    assert (tmp_path / "run.flags").read_bytes() == before


def test_flags_whose_writer_was_killed_are_written_again(tmp_path):
    Workdir(tmp_path).claim({"rtol": "1e-05"})
    whole = (tmp_path / "run.flags").read_text()
    for kept in range(len(whole)):
        (tmp_path / "run.flags").write_text(whole[:kept])
        Workdir(tmp_path).claim({"rtol": "1e-05"})
        assert (tmp_path / "run.flags").read_text() == whole


@contextlib.contextmanager
def read_only(folder):
    """Without the right to write there, be it as root or not."""
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with (
        read_only(tmp_path),
        pytest.raises(ValueError, match=f"{tmp_path}/run cannot be written: .*denied"),
    ):
        Workdir(tmp_path / "run").claim({"seed": "0"})


def test_sigterm_ends_a_stage_after_the_unit_in_hand(monkeypatch):
    monkeypatch.setattr(preemption, "_received", [])
    before = signal.getsignal(signal.SIGTERM)
    try:
        preemption.watch()
        with Progress("pairs/train", "pair") as progress:
            progress(1, 3)
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(distill.Interrupted, match=r"pairs/train .* 2 of 3"):
                progress(2, 3)
            # What is finished is finished.
            progress(3, 3)
    finally:
        signal.signal(signal.SIGTERM, before)
