"""The supervisor and its workers: starting, dying, killing, draining, and a sidecar that goes."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from asya._runtime import cgroup
from sidecar import WATCHDOG_SECONDS, Gone

ECHO = "def handle(p):\n    return p\n"
DIES = """
import os, signal, ctypes, sys, time
def handle(p):
    if p == "exit": os._exit(7)
    if p == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if p == "segfault": ctypes.string_at(0)
    if p == "hang":
        open("hanging", "w").close()
        time.sleep(1000)
    return p
"""


def wait_until(condition, what):
    deadline = time.monotonic() + WATCHDOG_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_first_packets(sidecar):
    one = sidecar(ECHO, workers=3)
    hello = one.meet_supervisor()
    version = ".".join(map(str, sys.version_info[:3]))
    assert hello == {"type": "supervisor", "version": 1, "pid": one.process.pid, "python": version}
    one.start_workers()
    workers = [one.meet_worker() for _ in range(3)]
    assert sorted(w.index for w in workers) == [0, 1, 2]
    assert sorted((w.index, w.generation) for w in workers) == list(enumerate(one.generations))
    for w in workers:
        assert w.pid != one.process.pid and os.getsid(w.pid) == w.pid, "its own session"
        assert w.one(w.index).document == w.index


@pytest.mark.parametrize(
    "how, code, number", [("exit", 7, None), ("kill", None, signal.SIGKILL), ("segfault", None, signal.SIGSEGV)]
)
def test_a_worker_that_dies_is_reported_and_restarted_on_request(worker, how, code, number):
    w = worker(DIES)
    one = w.sidecar
    w.call("before", ring=False)
    w.call(how)
    died = one.supervisor.receive()
    oom = died.pop("oom")
    assert oom is (None if cgroup.oom_kills() is None and number == 9 else False)
    assert died == {
        "type": "died", "worker": 0, "generation": w.generation, "pid": w.pid, "exit_code": code, "signal": number,
    }  # fmt: skip
    assert [found.document for found in w.left_behind()] == ["before"]
    generation = one.next_generation()
    one.supervisor.send({"type": "restart", "worker": 0, "generation": generation})
    again = one.meet_worker()
    assert again.generation == generation and again.one("x").document == "x"
    if how == "segfault":
        assert "Segmentation fault" in one.stderr and "handlers.py" in one.stderr


def test_a_worker_that_hangs_is_killed_and_replaced(worker):
    w = worker(DIES)
    one = w.sidecar
    w.call("hang")
    wait_until((one.folder / "hanging").exists, "hanging")
    following = one.next_generation()
    one.supervisor.send({"type": "kill", "worker": 0, "generation": w.generation, "next_generation": following, "reason": "timeout"})
    died = one.supervisor.receive()
    assert (died["pid"], died["signal"], died["oom"], died["generation"]) == (w.pid, 9, False, w.generation)
    again = one.meet_worker()
    assert again.generation == following and again.one("x").document == "x"
    assert "is killed: timeout" in one.stderr


def test_a_kill_that_meets_a_dead_process_starts_the_replacement(worker):
    w = worker(DIES)
    one = w.sidecar
    w.call("exit")
    one.supervisor.receive()
    following = one.next_generation()
    one.supervisor.send({"type": "kill", "worker": 0, "generation": w.generation, "next_generation": following, "reason": "timeout"})
    assert one.meet_worker().generation == following


def test_processes_that_a_handler_has_started_go_with_their_worker(worker):
    w = worker(
        """
        import os, subprocess, sys
        def handle(p):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
            if p == "exit":
                open("child", "w").write(str(child.pid))
                os.rename("child", "child.pid")
                os._exit(1)
            return child.pid
        """
    )
    one = w.sidecar
    child = w.one("stay").document
    w.call("exit")
    one.supervisor.receive()
    other = int((one.folder / "child.pid").read_text())
    wait_until(lambda: not alive(child) and not alive(other), "children are alive")


def test_programs_that_a_handler_starts_can_be_terminated(worker):
    w = worker(
        """
        import signal, subprocess, sys
        def handle(p):
            code = "import signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
            return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        """
    )
    assert w.one(1).document == "True"


def test_workers_ignore_sigterm_and_sigint(worker):
    w = worker(ECHO)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(w.pid, number)
        assert w.one(1).document == 1


def test_workers_die_with_a_supervisor_that_is_killed(worker):
    w = worker(DIES)
    w.call("hang")
    wait_until((w.sidecar.folder / "hanging").exists, "hanging")
    w.sidecar.process.kill()
    wait_until(lambda: not alive(w.pid), "the worker is alive")


# Draining


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(worker, number):
    w = worker(ECHO)
    one = w.sidecar
    running = w.call(1)
    one.process.send_signal(number)
    assert one.supervisor.receive() == {"type": "drain"}
    assert w.finish(running)[0].document == 1
    assert w.one(2).document == 2, "what comes while draining is still done"
    one.supervisor.send({"type": "drained"})
    assert one.process.wait(WATCHDOG_SECONDS) == 0
    assert not alive(w.pid) and "draining" in one.stderr


def test_a_worker_may_run_its_exit_handlers(worker):
    w = worker("import atexit\natexit.register(lambda: open('goodbye', 'w').close())\ndef handle(p):\n    return p\n")
    one = w.sidecar
    one.process.terminate()
    one.supervisor.receive()
    one.supervisor.send({"type": "drained"})
    one.process.wait(WATCHDOG_SECONDS)
    assert (one.folder / "goodbye").exists()


def test_a_second_terminate_changes_nothing(worker):
    w = worker(ECHO)
    one = w.sidecar
    for _ in range(2):
        one.process.terminate()
    assert one.supervisor.receive() == {"type": "drain"}
    assert w.one(1).document == 1
    one.process.terminate()
    assert w.one(2).document == 2
    one.supervisor.send({"type": "drained"})
    assert one.process.wait(WATCHDOG_SECONDS) == 0
    with pytest.raises(Gone):
        one.supervisor.receive()


def test_a_second_interrupt_forces_and_says_so(worker):
    w = worker(DIES)
    one = w.sidecar
    w.call("hang")
    wait_until((one.folder / "hanging").exists, "hanging")
    one.process.send_signal(signal.SIGINT)
    assert one.supervisor.receive() == {"type": "drain"}
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(WATCHDOG_SECONDS) == 130
    assert "goes back to its queue" in one.stderr and not alive(w.pid)


def test_shortly_before_the_grace_period_ends_it_stops(worker):
    w = worker(DIES, env={"ASYA_GRACE_PERIOD": "0.6"})
    one = w.sidecar
    w.call("hang")
    wait_until((one.folder / "hanging").exists, "hanging")
    one.process.terminate()
    assert one.supervisor.receive() == {"type": "drain"}
    assert one.process.wait(WATCHDOG_SECONDS) == 1
    assert "grace period is nearly over" in one.stderr and not alive(w.pid)


def test_a_sidecar_that_ended_first_needs_no_draining(worker):
    w = worker(ECHO)
    one = w.sidecar
    one.listener.close()
    one.supervisor.close()
    w.close()
    one.process.terminate()
    assert one.process.wait(WATCHDOG_SECONDS) == 0 and not alive(w.pid)


def test_a_sidecar_that_ends_while_draining(worker):
    w = worker(ECHO)
    one = w.sidecar
    one.process.terminate()
    assert one.supervisor.receive() == {"type": "drain"}
    one.supervisor.close()
    w.close()
    assert one.process.wait(WATCHDOG_SECONDS) == 0


def test_terminated_before_there_is_a_sidecar(zipapp, tmp_path):
    import subprocess

    process = subprocess.Popen(
        [sys.executable, str(zipapp)], env={"ASYA_SOCKET_DIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True
    )
    assert "waiting for the sidecar at" in process.stderr.readline()
    process.terminate()
    assert process.wait(WATCHDOG_SECONDS) == 0
    process.stderr.close()


# A sidecar that goes and comes back


COUNTS = "import os\ncalls = 0\n{0} handle(p):\n    global calls\n    calls += 1\n    return [calls, os.getpid()]\n"


@pytest.mark.parametrize(
    "keyword, env", [("def", {}), ("def", {"ASYA_CONCURRENCY": "2"}), ("async def", {})], ids=["sync", "threads", "async"]
)
@pytest.mark.parametrize("supervisor_first", [True, False])
def test_workers_keep_their_model_when_the_sidecar_is_replaced(worker, keyword, env, supervisor_first):
    w = worker(COUNTS.format(keyword), env=env)
    one = w.sidecar
    assert w.one({}).document == [1, w.pid]
    for round_ in (2, 3):
        one.listener.close()
        one.supervisor.close()
        w.close()
        one.listen()
        first, second = one.accept(), one.accept()
        hellos = {peer.receive()["type"]: peer for peer in (first, second)}
        assert sorted(hellos) == ["supervisor", "worker"]
        one.supervisor = hellos["supervisor"]
        generation = one.next_generation()
        start = {"type": "start", "workers": 1, "generations": [generation], "config": {}}
        if supervisor_first:
            one.supervisor.send(start)
        from sidecar import Worker

        w = Worker(hellos["worker"], 0, generation, w.pid)
        w.attach()
        assert hellos["worker"].receive()["type"] == "ready"
        if not supervisor_first:
            one.supervisor.send(start)
        assert w.one({}).document == [round_, w.pid]
    # The supervisor knows the generation that it was told.
    one.supervisor.send({"type": "kill", "worker": 0, "generation": generation, "next_generation": generation + 1, "reason": ""})
    assert one.supervisor.receive()["generation"] == generation


def test_what_the_hellos_of_a_second_meeting_say(worker):
    w = worker(ECHO)
    one = w.sidecar
    one.listener.close()
    one.supervisor.close()
    w.close()
    one.listen()
    peers = [one.accept(), one.accept()]
    hellos = [peer.receive() for peer in peers]
    hellos.sort(key=lambda hello: hello["type"])
    assert hellos[0]["workers"] == [{"worker": 0, "pid": w.pid}]
    assert hellos[1] == {"type": "worker", "version": 1, "worker": 0, "generation": 0, "pid": w.pid}


@pytest.mark.parametrize("keyword, wait", [("def", "time.sleep(0.01)"), ("async def", "await asyncio.sleep(0.01)")])
def test_a_result_for_a_sidecar_that_has_gone_is_dropped(worker, keyword, wait):
    w = worker(
        f"import asyncio, os, time\n{keyword} handle(p):\n    while p == 'slow' and not os.path.exists('go'):\n"
        f"        open('hanging', 'w').close()\n        {wait}\n    return p\n"
    )
    one = w.sidecar
    w.call("slow")
    wait_until((one.folder / "hanging").exists, "slow")
    one.listener.close()
    one.supervisor.close()
    w.close()
    one.listen()
    (one.folder / "go").touch()
    from sidecar import Worker

    peers = [one.accept(), one.accept()]
    for peer in peers:
        hello = peer.receive()
        if hello["type"] == "worker":
            w = Worker(peer, 0, 50, hello["pid"])
    w.attach()
    assert w.peer.receive()["type"] == "ready"
    assert w.one("next").document == "next"
    assert w.completed == 1


def test_views_that_a_handler_kept_survive_the_sidecar(worker, attach_again):
    from sidecar import OutBlob

    w = worker(
        """
        kept = []
        def handle(p):
            if "data" in p:
                kept.append(p["data"].view)
                return 1
            return kept[0].tobytes().hex()
        """
    )
    data = os.urandom(10_000)
    assert w.one({"data": {"$asya.blob": 0}}, [OutBlob("raw", (len(data),), data)]).flags & 2
    w = attach_again(w)
    assert w.one({}).document == data.hex()


def test_a_worker_that_is_refused_ends(sidecar):
    one = sidecar(ECHO)
    one.meet_supervisor()
    one.start_workers()
    peer = one.accept()
    peer.receive()
    peer.send({"type": "refused", "why": "stale generation"})
    assert one.supervisor.receive()["exit_code"] == 1
    assert "stale generation" in one.stderr


def test_a_runtime_that_is_refused_for_another_one_waits_for_its_place(sidecar):
    one = sidecar(ECHO)
    for _ in range(2):
        one.meet_supervisor()
        one.supervisor.send({"type": "refused", "why": "another runtime (pid 7) is attached", "retry": True})
        with pytest.raises(Gone):
            one.supervisor.receive()
    one.meet_supervisor()
    one.start_workers()
    assert one.meet_worker().one(1).document == 1
    assert one.stderr.count("another runtime (pid 7) is attached") == 1, "it is not said each time"


def test_a_runtime_that_waits_for_its_place_can_be_terminated(sidecar):
    one = sidecar(ECHO)
    one.meet_supervisor()
    one.supervisor.send({"type": "refused", "why": "another runtime (pid 7) is attached", "retry": True})
    with pytest.raises(Gone):
        one.supervisor.receive()
    one.process.terminate()
    assert one.process.wait(WATCHDOG_SECONDS) == 0


def test_a_runtime_that_is_refused_for_good_ends(sidecar):
    one = sidecar(ECHO)
    one.meet_supervisor()
    one.supervisor.send({"type": "refused", "why": "version 1, wanted 2", "retry": False})
    assert one.process.wait(WATCHDOG_SECONDS) == 1
    assert "version 1, wanted 2" in one.stderr


def test_what_the_sidecar_says_and_is_not_understood(sidecar):
    one = sidecar(ECHO)
    one.meet_supervisor()
    one.supervisor.send({"type": "kill"})
    again = one.meet_supervisor()
    assert again["type"] == "supervisor" and "not understood" in one.stderr
    one.supervisor.send({"type": "of the future"})
    one.start_workers()
    assert one.meet_worker().one(1).document == 1


def test_workers_that_are_no_longer_wanted_end(sidecar):
    one = sidecar(ECHO, workers=2)
    one.meet_supervisor()
    one.start_workers()
    workers = {w.index: w for w in (one.meet_worker(), one.meet_worker())}
    one.supervisor.send({"type": "start", "workers": 1, "generations": [workers[0].generation], "config": {}})
    died = one.supervisor.receive()
    assert (died["worker"], died["signal"]) == (1, 9)
    assert workers[0].one(1).document == 1


# Memory kills


@pytest.mark.parametrize(
    "line, files, expected",
    [
        ("0::/", {"/sys/fs/cgroup/memory.events": "low 0\noom 2\noom_kill 3\n"}, 3),
        ("0::/pod/c", {"/sys/fs/cgroup/pod/c/memory.events": "oom_kill 4\n"}, 4),
        ("5:cpu,memory:/x", {"/sys/fs/cgroup/memory/memory.oom_control": "under_oom 0\noom_kill 5\n"}, 5),
        ("5:cpu:/x", {}, None),
        ("0::/", {"/sys/fs/cgroup/memory.events": "oom_kill many\n"}, None),
    ],
)
def test_the_kernels_count_of_memory_kills(monkeypatch, line, files, expected):
    import io

    def fake_open(path, encoding=None):
        if path == "/proc/self/cgroup":
            return io.StringIO(line + "\n")
        if path in files:
            return io.StringIO(files[path])
        raise FileNotFoundError(path)

    monkeypatch.setattr(cgroup, "open", fake_open, raising=False)
    assert cgroup.oom_kills() == expected


def test_a_memory_kill_is_guessed(monkeypatch):
    from asya._runtime import supervisor

    class Worker:
        oom_kills = 3
        replacement = None

    monkeypatch.setattr(supervisor, "oom_kills", lambda: 4)
    assert supervisor._was_oom(Worker, signal.SIGKILL) is True
    assert supervisor._was_oom(Worker, signal.SIGSEGV) is False
    monkeypatch.setattr(supervisor, "oom_kills", lambda: 3)
    assert supervisor._was_oom(Worker, signal.SIGKILL) is False
    monkeypatch.setattr(supervisor, "oom_kills", lambda: None)
    assert supervisor._was_oom(Worker, signal.SIGKILL) is None
