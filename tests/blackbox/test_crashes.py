"""What dies, and what does not: timeouts, crashes of workers, of the supervisor and of the sidecar; drains in both orders."""

import os
import signal

from conftest import envelope
from waiting import until


def failure(message):
    status = message.envelope["status"]
    return status["reason"], status["error"]


def test_a_timeout_replaces_only_the_worker(world):
    actor = world.actor("obey", ASYA_RESILIENCY_ACTOR_TIMEOUT="500ms", ASYA_WORKERS="2")
    until(lambda: actor.metric("workers_ready") == 2, "both workers to be ready")
    before = set(actor.workers())
    world.publish("a", envelope(["a"], {"do": "sleep"}, identity="slow"))
    for number in range(4):
        world.publish("a", envelope(["a"], {"n": number}, identity=f"m-{number}"))
    got = world.get("x-sump")
    reason, error = failure(got)
    assert reason == "Timeout" and error["type"] == "TimeoutError" and "500ms" in error["message"]
    assert got.envelope["id"] == "slow" and got.envelope["payload"] == {"do": "sleep"}
    assert {world.get("x-sink").envelope["id"] for _ in range(4)} == {f"m-{number}" for number in range(4)}
    until(lambda: actor.metric("workers_ready") == 2, "the replacement to be ready")
    after = set(actor.workers())
    assert len(before & after) == 1 and len(after) == 2
    assert actor.sidecar.poll() is None and actor.runtime.poll() is None
    assert actor.metric("worker_deaths_total", reason="timeout") == 1 and world.depth("x-sump") == 0


def test_an_async_call_that_times_out_is_cancelled_and_its_neighbours_run_on(world):
    actor = world.actor("obey_async", ASYA_RESILIENCY_ACTOR_TIMEOUT="500ms", ASYA_CONCURRENCY="4")
    before = actor.workers()
    world.publish("a", envelope(["a"], {"do": "sleep"}, identity="slow"))
    world.publish("a", envelope(["a"], {"n": 1}))
    assert world.get("x-sink").envelope["payload"] == {"n": 1}
    got = world.get("x-sump")
    assert failure(got)[0] == "Timeout" and got.envelope["id"] == "slow"
    actor.wait_until_idle()
    assert actor.workers() == before and actor.metric("worker_deaths_total") == 0


def test_only_what_crashes_alone_is_charged_for_a_crash(world):
    actor = world.actor("obey", ASYA_CONCURRENCY="4")
    world.publish("a", envelope(["a"], {"n": 0}, identity="first"))
    world.get("x-sink")
    for number in range(3):
        world.publish("a", envelope(["a"], {"do": "gate", "n": number}, identity=f"m-{number}"))
    until(lambda: len(actor.journal("begin")) >= 4, "the innocent to run")
    world.publish("a", envelope(["a"], {"do": "exit"}, identity="crasher"))
    until(lambda: actor.metric("worker_deaths_total", reason="crashed") >= 1, "the crash")
    actor.open_gate()
    got = world.get("x-sump")
    reason, error = failure(got)
    assert reason == "WorkerCrashed" and got.envelope["id"] == "crasher" and "3 times" in error["message"]
    assert got.envelope["payload"] == {"do": "exit"}
    for _ in range(3):
        innocent = world.get("x-sink").envelope
        assert innocent["id"] in {"m-0", "m-1", "m-2"} and innocent["status"]["attempt"] == 1
    actor.wait_until_idle()
    assert world.depth("x-sump") == 0 and world.depth("x-sink") == 0 and world.depth("a") == 0
    assert actor.sidecar.poll() is None and actor.runtime.poll() is None


def test_messages_that_each_kill_the_worker_do_not_stop_those_behind_them(world):
    actor = world.actor("obey")
    for number in range(4):
        world.publish("a", envelope(["a"], {"do": "exit"}, identity=f"crasher-{number}"))
    world.publish("a", envelope(["a"], {"n": 1}, identity="innocent"))
    assert {failure(got)[0] for got in (world.get("x-sump") for _ in range(4))} == {"WorkerCrashed"}
    assert world.get("x-sink").envelope["id"] == "innocent"
    actor.wait_until_idle()
    assert world.depth("x-sump") == 0 and world.depth("x-sink") == 0 and world.depth("a") == 0


def test_a_killed_worker_is_replaced_and_its_message_runs_again_uncharged(world):
    actor = world.actor("obey", ASYA_CONCURRENCY="2")
    world.publish("a", envelope(["a"], {"n": 0}, identity="first"))
    world.get("x-sink")
    for number in range(2):
        world.publish("a", envelope(["a"], {"do": "gate"}, identity=f"m-{number}"))
    actor.wait_for_journal("begin", 3)
    (worker,) = actor.workers()
    os.kill(worker, signal.SIGKILL)
    actor.open_gate()
    for _ in range(2):
        assert world.get("x-sink").envelope["status"]["attempt"] == 1
    actor.wait_until_idle()
    assert len(actor.journal("begin")) == 5 and actor.metric("suspects_total") == 2


def test_a_killed_supervisor_takes_its_workers_along_and_a_new_one_goes_on(world):
    actor = world.actor("gated")
    world.publish("a", envelope(["a"], 1))
    actor.wait_for_journal("begin", 1)
    actor.runtime.kill()
    actor.runtime.wait()
    until(lambda: actor.metric("workers_ready") == 0, "the worker to be missed")
    actor.open_gate()
    actor.start_runtime()
    assert world.get("x-sink").envelope["payload"] == 1
    actor.wait_until_idle()
    assert [line["what"] for line in actor.journal()] == ["begin", "begin", "end"]
    assert actor.sidecar.poll() is None and world.depth("x-sump") == 0


def test_workers_keep_their_model_when_the_sidecar_restarts(world):
    actor = world.actor("handlers.Model.predict", ASYA_WORKERS="2")
    until(lambda: actor.metric("workers_ready") == 2, "both workers to be ready")
    before = sorted(actor.workers())
    for number in range(3):
        world.publish("a", envelope(["a"], number))
        assert world.get("x-sink").envelope["payload"] == number
        world.wait_until_settled("a")
        actor.sidecar.kill()
        actor.sidecar.wait()
        actor.start_sidecar()
        until(lambda: actor.metric("workers_ready") == 2, "the workers to be back")
    assert sorted(actor.workers()) == before
    assert len(actor.journal("load")) == 2 and len(actor.journal("run")) == 3


def test_what_ran_when_the_sidecar_died_runs_again(world):
    actor = world.actor("gated")
    world.publish("a", envelope(["a"], 1))
    actor.wait_for_journal("begin", 1)
    actor.sidecar.kill()
    actor.sidecar.wait()
    actor.start_sidecar()
    actor.open_gate()
    assert world.get("x-sink").envelope["payload"] == 1
    actor.wait_until_idle()
    assert world.depth("a") == 0 and world.depth("x-sump") == 0 and world.depth("x-sink") == 0


# --- drains -----------------------------------------------------------------------------------------------------------


def drain(world, first):
    """A drain while one message runs and others wait: begun at one process, ended at both."""
    actor = world.actor("obey")
    for number in range(8):  # so that the handler's speed is known and more than one message is held
        world.publish("a", envelope(["a"], {"n": number}))
        world.get("x-sink")
    actor.wait_until_idle()
    for number in range(6):
        world.publish("a", envelope(["a"], {"do": "gate"}, identity=f"m-{number}"))
    actor.wait_for_journal("begin", 9)
    {"sidecar": actor.sidecar, "supervisor": actor.runtime}[first].terminate()
    until(lambda: "draining" in actor.page("/readyz")[1] or actor.page("/readyz")[0] == 503, "the drain to begin")
    actor.open_gate()
    assert actor.wait_for_end(actor.sidecar, "the sidecar") == 0
    assert actor.wait_for_end(actor.runtime, "the runtime") == 0
    # The kernel has closed its connections: what was not acked is in the queue.
    until(lambda: world.depth("a") + world.depth("x-sink") == 6, "every message to be somewhere")
    finished = world.depth("x-sink")
    assert finished >= 1 and world.depth("x-sump") == 0
    assert len(actor.journal("end")) == 8 + finished  # nothing ran for nothing
    for _ in range(world.depth("a")):
        assert "status" not in world.get("a").envelope


def test_a_drain_that_begins_at_the_sidecar(world):
    drain(world, "sidecar")


def test_a_drain_that_begins_at_the_supervisor(world):
    drain(world, "supervisor")


def test_a_drain_hands_back_what_does_not_end_within_the_grace_period(world):
    actor = world.actor("gated", ASYA_GRACE_PERIOD="3s")
    world.publish("a", envelope(["a"], 1))
    actor.wait_for_journal("begin", 1)
    actor.runtime.terminate()
    assert actor.wait_for_end(actor.sidecar, "the sidecar") == 0
    actor.wait_for_end(actor.runtime, "the runtime")
    until(lambda: world.depth("a") == 1, "the message to be back")
    assert "status" not in world.get("a").envelope and actor.journal("end") == []


def test_a_drain_without_work_ends_at_once(world):
    actor = world.actor("echo")
    actor.sidecar.terminate()
    assert actor.wait_for_end(actor.sidecar, "the sidecar") == 0
    assert actor.wait_for_end(actor.runtime, "the runtime") == 0
