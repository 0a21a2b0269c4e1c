"""Laws of the processes of a run: they meet, and each end is known to the others."""

import contextlib
import importlib
import io
import queue
import re
import socket
import threading
import time

import jax
import pytest

from bns_jax import parallel
from bns_jax.parallel import connection, meeting
from bns_jax.parallel.meeting import Meeting
from experiments.run import dump_filter

HOST = "127.0.0.1"


@pytest.fixture
def port():
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        return holder.getsockname()[1]


class Process:
    """One process of a run, as a thread that meets the others."""

    def __init__(self, number, count, port, timeout=20.0):
        self.meeting = Meeting(number, count, f"{HOST}:{port}")
        self.lost, self.error = queue.Queue(), ""
        meet = self.meeting.join if number else self.meeting.host
        self._thread = threading.Thread(target=self._run, args=(meet, port, timeout))
        self._thread.start()

    def _run(self, meet, port, timeout):
        try:
            meet(HOST, port, timeout)
        except ValueError as error:
            self.error = str(error)

    def is_alive(self):
        return self._thread.is_alive()

    def met(self):
        self._thread.join()
        return self.error


@contextlib.contextmanager
def run_of(count, port):
    """Processes that have met and watch each other."""
    there = [Process(number, count, port) for number in range(count)]
    assert [process.met() for process in there] == [""] * count
    for process in there:
        process.meeting.watch(process.lost.put)
    yield there
    for process in there:
        process.meeting.leave()
        process.meeting.close()


@pytest.mark.parametrize("dies", [0, 2])
def test_who_dies_is_named_to_all_others(port, dies):
    with run_of(3, port) as there:
        line = there[dies].meeting
        line._closed.set()
        line.close()
        where = f", which listened at {HOST}:{port}," if dies == 0 else ""
        for process in there[:dies] + there[dies + 1 :]:
            reason = process.lost.get(timeout=100)
            assert reason == f"process {dies} of 3{where} has died"


@pytest.mark.parametrize("fails", [0, 1])
def test_who_fails_says_why(port, fails, monkeypatch):
    # Here the others do not end, for which it would wait.
    monkeypatch.setattr(meeting, "_FAREWELL_SECONDS", 0.2)
    with run_of(3, port) as there:
        there[fails].meeting.fail("no space left")
        for process in there[:fails] + there[fails + 1 :]:
            reason = process.lost.get(timeout=100)
            assert reason == f"process {fails} of 3 failed: no space left"


def test_who_fails_waits_until_the_others_have_ended(port, monkeypatch):
    monkeypatch.setattr(meeting, "_FAREWELL_SECONDS", 1e4)
    first, second = (Process(number, 2, port) for number in range(2))
    assert [first.met(), second.met()] == ["", ""]

    def end(reason):
        second.lost.put(reason)
        second.meeting.close()

    second.meeting.watch(end)
    first.meeting.fail("no space left")
    assert second.lost.get_nowait().endswith("failed: no space left")


@pytest.mark.parametrize("said", [b"no JSON\n", b"[1]\n"])
def test_who_talks_nonsense_has_died(port, said):
    with run_of(2, port) as there:
        there[1].meeting._lines[0].socket.sendall(said)
        assert there[0].lost.get(timeout=100) == "process 1 of 2 has died"


@pytest.mark.parametrize("failed", ["", "no space left"])
def test_a_process_that_was_started_says_how_it_ends(port, monkeypatch, failed):
    module, asked = importlib.import_module("bns_jax.parallel.start"), []
    monkeypatch.setattr(meeting, "_FAREWELL_SECONDS", 0.2)
    monkeypatch.setattr(module, "_meeting", None)
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *args, **kw: asked.append((args, kw))
    )
    second, lost = Process(1, 2, port), queue.Queue()
    parallel.start(f"{HOST}:{port}", 2, 0, timeout=9, lost=lost.put)
    assert second.met() == ""
    assert asked == [((f"{HOST}:{port}", 2, 0), {"initialization_timeout": 9})]
    second.meeting.watch(second.lost.put)
    parallel.finish(failed)
    if failed:
        reason = second.lost.get(timeout=100)
        assert reason == f"process 0 of 2 failed: {failed}"
    else:
        assert _left(second) == {0}
    second.meeting.leave()
    second.meeting.close()
    module._meeting.close()
    assert lost.empty()


def _left(process):
    """Who of the others has said that it is done."""
    while not process.meeting._left:
        time.sleep(0.01)
    return process.meeting._left


def test_who_says_nothing_is_named(port, monkeypatch):
    monkeypatch.setattr(meeting, "_SILENT_SECONDS", 0.5)
    there = [Process(number, 2, port) for number in range(2)]
    assert [process.met() for process in there] == ["", ""]
    there[0].meeting.watch(there[0].lost.put)
    assert "process 1 of 2 has said nothing" in there[0].lost.get(timeout=100)
    for process in there:
        process.meeting.close()


def test_who_leaves_is_not_missed(port):
    with run_of(3, port) as there:
        for process in there[1:]:
            process.meeting.leave()
        for process in there[1:]:
            process.meeting.close()
        with pytest.raises(queue.Empty):
            there[0].lost.get(timeout=2.5)


def test_who_does_not_come_is_named(port):
    there = [Process(number, 4, port, timeout=2.0) for number in (0, 2)]
    expected = f"process 1, 3 of 4 did not come to {HOST}:{port} within 2 s"
    assert [process.met() for process in there] == [expected, expected]


def test_two_of_one_number_are_refused(port):
    there = [Process(number, 3, port, timeout=20.0) for number in (0, 1, 1)]
    assert {process.met() for process in there} == {
        "two processes came as number 1 of 3"
    }


def test_another_count_is_refused(port):
    there = [Process(0, 3, port), Process(1, 2, port)]
    expected = "process 1 expects 2 processes, process 0 3"
    assert [process.met() for process in there] == [expected, expected]


def test_a_stranger_is_no_process(port):
    first = Process(0, 2, port)
    for said in (b"", b"GET / HTTP/1.1\r\n", b"[1]\n", b'{"process": "1"}\n'):
        with contextlib.closing(
            connection.connected(HOST, port, 1e9, 20.0)
        ) as stranger:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            stranger.recv(1)
    second = Process(1, 2, port)
    assert [first.met(), second.met()] == ["", ""]
    second.meeting.close()
    first.meeting.close()


def test_one_process_meets_nobody(port):
    assert Process(0, 1, port).met() == ""


def test_a_line_that_stays_silent_is_not_waited_for_longer():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert connection.Line(ours).wait(time.monotonic() + 0.01) is None
        theirs.sendall(b'\n{"process": 1}\n')
        assert connection.Line(ours).wait(time.monotonic() + 100) == {"process": 1}


def test_a_port_that_cannot_be_listened_at_is_named():
    with socket.socket() as holder:
        # Bound without sharing, but nobody listens.
        holder.bind((HOST, 0))
        port = holder.getsockname()[1]
        expected = f"process 0 cannot listen at {HOST}:{port}: .*in use"
        assert re.match(expected, Process(0, 2, port).met())


def test_who_is_turned_away_in_silence_comes_again_and_is_named():
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        process = Process(1, 2, port, timeout=0.1)
        server.settimeout(0.05)
        while process.is_alive():
            with contextlib.suppress(TimeoutError):
                server.accept()[0].close()
        expected = (
            f"process 0 at {HOST}:{port} did not let process 1 in within 0.1 s; are "
            "there two of that number?"
        )
        assert process.met() == expected


def test_a_port_that_is_taken_is_named():
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        assert f"{HOST}:{port} is taken" in Process(0, 2, port).met()


def test_what_is_no_process_0_is_named():
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        process = Process(1, 2, port, timeout=20.0)
        connection = server.accept()[0]
        connection.sendall(b"HTTP/1.1 400 Bad Request\n")
        assert f"what answers at {HOST}:{port} is no process 0" in process.met()
        connection.close()


SERVICE = b"E1127 04:58:06.529202   31220 coordination_service_agent.cc:289] Polled\n"
DUMP = (
    b"F1127 04:58:06.529244   31220 client.h:80] Terminating process because\n"
    b":UNKNOWN:Error\n*** Check failure stack trace: ***\n    @  0x7fedd3040634\n"
)
OURS = b"error: process 1 has died\n"


@pytest.mark.parametrize(
    ("said", "passed"),
    [
        (b"a warning\nand more\n", b"a warning\nand more\n"),
        (b"a warning\n" + SERVICE + DUMP, b"a warning\nerror: gone\n"),
        (OURS + SERVICE + DUMP, OURS),
        (SERVICE + OURS + DUMP, OURS),
        (SERVICE + DUMP + OURS, OURS),
        (SERVICE + OURS, OURS),
        # Without an end it may be what somebody looks for.
        (SERVICE + b"more\n", SERVICE + b"more\n"),
        (b"no line feed", b"no line feed"),
        (b"W1127 05:13:46.801640   15686 preemption_notifier.cc:90] SIGTERM\n", b""),
    ],
)
def test_a_dump_becomes_one_line(said, passed):
    target = io.BytesIO()
    dump_filter.copy(io.BytesIO(said), target, b"gone")
    assert target.getvalue() == passed
