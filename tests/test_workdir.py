"""Laws of a run's folder: one run at a time, one configuration, a writable disk."""

import contextlib
import errno
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time
import types

import pytest
from etils import epath

from bns_jax import distill
from bns_jax import lock as locks
from experiments.distill_checkpoint import CheckpointConfig
from experiments.run import interrupt, lock, preemption
from experiments.run.progress import ProgressBar
from experiments.run.workdir import Workdir
from tests.laws import first_of

ROOT = pathlib.Path(__file__).parent.parent
HOLD = {
    "file": "lock.hold(path)",
    "beating": "lock.BeatingLock(path / '.lock', 0.5)",
}


def hold(kind, folder):
    return eval(HOLD[kind], {"lock": lock, "path": epath.Path(folder)})


@contextlib.contextmanager
def another_process_holds(kind, folder):
    code = (
        "import sys, time; from etils import epath; from experiments.run import lock\n"
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


@pytest.mark.parametrize("kind", first_of(HOLD, "beating"))
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


STRANGER = "process 7 on another, 8a3f beat 3"


def beats(text):
    return int(text.partition(" beat ")[2] or 0)


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_beats_that_fail_are_made_up_for(tmp_path, monkeypatch, kind):
    """Not all that the client of a bucket raises is an OSError."""
    path = epath.Path(tmp_path / ".lock")
    held = lock.BeatingLock(path, 0.02)
    failed = []

    def fails(self, text):
        failed.append(text)
        raise kind("503: try again")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "write_text", fails)
        wait_until(lambda: len(failed) >= 2)
    wait_until(lambda: beats(path.read_text()) > beats(failed[-1]))
    del held
    assert not path.exists()


def test_a_holder_that_lost_its_lock_ends_and_leaves_the_file(
    tmp_path, sigterm, caplog
):
    """As one that was paused, until somebody else took over."""
    path = epath.Path(tmp_path / ".lock")
    held = lock.BeatingLock(path, 0.05)
    assert not preemption.asked()

    def taken_over():
        # Again and again, for a beat may be on its way already.
        path.write_text(STRANGER)
        return preemption.asked()

    wait_until(taken_over)
    del held
    assert path.read_text() == STRANGER
    assert f"{path} is no longer of this run, which ends" in caplog.text


def flock_fails(monkeypatch, number):
    handles = []

    def fails(handle, operation):
        handles.append(handle)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", fails)
    return handles


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_has_none(tmp_path, monkeypatch, number):
    flock_fails(monkeypatch, number)
    assert locks.take(epath.Path(tmp_path), "--workdir") is None


def test_a_lock_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    handles = flock_fails(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        locks.take(epath.Path(tmp_path), "--workdir")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handles[0])


def test_where_the_system_has_no_locks_there_is_none(tmp_path, monkeypatch):
    """As on Windows."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    take = runpy.run_path(locks.__file__)["take"]
    assert take(epath.Path(tmp_path), "--workdir") is None
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """Its last holder does so between the opening and the locking."""
    path, really = tmp_path / ".lock", locks.fcntl.flock
    removals = [1, 1]

    def flock(handle, operation):
        if removals:
            removals.pop()
            path.unlink()
        really(handle, operation)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    held = locks.take(epath.Path(tmp_path), "--workdir")
    assert not removals and held.is_held()
    assert path.read_text() == locks.me()
    with pytest.raises(ValueError, match=f"in use by .*process {os.getpid()} on"):
        locks.take(epath.Path(tmp_path), "--workdir")


@pytest.mark.parametrize("remade", [False, True])
def test_a_file_lock_that_was_removed_ends_its_holder(
    tmp_path, sigterm, caplog, remade
):
    kept = locks.take(epath.Path(tmp_path), "--workdir")
    held = lock.WatchedLock(epath.Path(tmp_path), kept, 0.02)
    assert not preemption.asked()
    (tmp_path / ".lock").unlink()
    if remade:
        (tmp_path / ".lock").write_text(STRANGER)
    wait_until(preemption.asked)
    del held
    assert "no longer of this run, which ends" in caplog.text
    # What is another's stays.
    assert (tmp_path / ".lock").exists() == remade


def test_after_a_run_no_lock_says_where_it_was(tmp_path):
    held = hold("file", tmp_path)
    assert os.uname().nodename in (tmp_path / ".lock").read_text()
    del held
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("first", "then"), [("", STRANGER), (STRANGER, "")])
def test_a_lock_read_while_it_is_written_is_held(tmp_path, monkeypatch, first, then):
    """Its reader may find it empty."""
    path = epath.Path(tmp_path / ".lock")
    path.write_text(first)
    clock = types.SimpleNamespace(sleep=lambda seconds: path.write_text(then))
    monkeypatch.setattr(lock, "time", clock)
    with pytest.raises(ValueError, match=r"another run \(process 7 on another, 8a3f\)"):
        lock.BeatingLock(path)
    assert path.read_text() == then


def test_an_empty_lock_that_stays_so_is_dead(tmp_path, monkeypatch):
    path, waits = epath.Path(tmp_path / ".lock"), []
    path.write_text("")
    monkeypatch.setattr(lock, "time", types.SimpleNamespace(sleep=waits.append))
    held = lock.BeatingLock(path, 10.0)
    assert waits == [30.0, 5.0]
    del held


def wait_until(condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


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


@pytest.mark.parametrize("value", ["a\nb", "a\n", "\r", "a\u2028b"])
def test_a_value_of_several_lines_is_refused(tmp_path, value):
    """A flag file has a line for each."""
    with pytest.raises(ValueError, match="--config must be of one line"):
        Workdir(tmp_path / "run").claim({"config": value})
    assert not (tmp_path / "run").exists()


def test_json_over_several_lines_is_a_value_of_one():
    given = '{"width":\n 128,\n"x": "\u2028"}'
    assert CheckpointConfig(config=given).config == '{"width": 128, "x": "\\u2028"}'
    assert CheckpointConfig(config="").config == ""
    for text in ("[1]", "{", "3", '{"x": 1} 2'):
        with pytest.raises(ValueError, match="expected a JSON object"):
            CheckpointConfig(config=text)


def test_json_in_a_flag_is_written_as_one_line():
    command = [sys.executable, "-c", SHOW_CONFIG, '--config={"width":\n 128}']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == '{"width": 128}\n'


SHOW_CONFIG = """
from experiments.distill_checkpoint import CheckpointConfig
from experiments.run import cli
cli.launch(lambda config: print(config.shaping()["config"]), CheckpointConfig)
"""


def test_an_empty_workdir_is_not_the_working_directory():
    with pytest.raises(ValueError, match="--workdir must be a path, got ''"):
        Workdir("")


def test_flags_that_are_not_whole_are_refused(tmp_path):
    """They may have been others, and of another run."""
    Workdir(tmp_path).claim({"rtol": "1e-05"})
    path = tmp_path / "run.flags"
    whole = path.read_text()
    for kept in range(len(whole)):
        path.write_text(whole[:kept])
        with pytest.raises(ValueError, match=f"{path} is damaged"):
            Workdir(tmp_path).claim({"rtol": "1e-06"})
        assert path.read_text() == whole[:kept]
    path.unlink()
    Workdir(tmp_path).claim({"rtol": "1e-05"})
    assert path.read_text() == whole


CLAIM = """
import os, sys
from experiments.run.workdir import Workdir

if os.access(sys.argv[1], os.W_OK):  # as root may write anywhere
    os.seteuid(65534)
try:
    Workdir(sys.argv[1] + "/run").claim({"seed": "0"})
except ValueError as error:
    print(error)
"""


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """In a process of its own, which gives up the rights of root."""
    tmp_path.chmod(0o555)
    command = [sys.executable, "-c", CLAIM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    tmp_path.chmod(0o755)
    if "os.seteuid" in done.stderr:
        pytest.skip("root may not give up its rights here")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/run cannot be written: " in done.stdout
    assert "denied" in done.stdout


@pytest.fixture
def sigterm(monkeypatch):
    """Watches for the signal, as an experiment does."""
    monkeypatch.setattr(preemption, "_received", [])
    before = signal.getsignal(signal.SIGTERM)
    preemption.watch()
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_ends_a_stage_after_the_unit_in_hand(sigterm):
    with ProgressBar("pairs/train", "pair") as progress:
        progress(1, 3)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(distill.Interrupted, match=r"pairs/train .* 2 of 3"):
            progress(2, 3)
        # What is finished is finished.
        progress(3, 3)


PROGRAM = """
import hashlib, sys, time
from experiments.run import interrupt

def main():
    def work():
        print("at work", flush=True)
        # What never comes back to Python's main thread, as a compiler.
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

    if "defers" not in sys.argv:
        work()
    with interrupt.deferred(lambda: print("asked", flush=True)):
        work()

interrupt.watch()
main()
"""


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_at_once_what_it_has_asked_before(presses):
    """The first press, where nothing is to be saved."""
    words = ["defers"] if presses == 2 else []
    command = [sys.executable, "-c", PROGRAM, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        try:
            assert process.stdout.readline() == "at work\n"
            if presses == 2:
                process.send_signal(signal.SIGINT)
                assert process.stdout.readline() == "asked\n"
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=100)
        finally:
            process.kill()
    assert said == ("", "error: interrupted\n")
    assert process.returncode == interrupt.CODE == 130
