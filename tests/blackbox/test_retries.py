"""Cases 73 to 89 of docs/COMPATIBILITY.md on a real broker: other attempts, their delays and their end, and deadlines.

What a delay is to the millisecond is a matter of the core's own tests; here no attempt begins too early, and each begins.
"""

import base64
import datetime
import json

import pytest
from conftest import envelope
from waiting import until

# The clock of the broker and that of the test are the same; its queues keep time in milliseconds, and handlers note theirs
# with the resolution of a float.
TICK_SECONDS = 0.002


def policies(**more):
    """The environment for one policy, for every error."""
    policy = {"maxAttempts": 3, "backoff": "constant", "initialDelay": "1s", **more}
    return {"ASYA_RESILIENCY_POLICIES": json.dumps({"default": policy})}


def moments(actor):
    return [run["at"] for run in actor.journal("run")]


def in_seconds(seconds):
    """A deadline, RFC 3339."""
    moment = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return moment.isoformat().replace("+00:00", "Z")


def due(route, payload, deadline_at):
    now = in_seconds(0)
    status = {"phase": "pending", "actor": route[0], "attempt": 1, "max_attempts": 0, "created_at": now, "updated_at": now}
    return envelope(route, payload, status={**status, "deadline_at": deadline_at})


def test_case_74_three_runs_and_then_it_fails_with_its_error(world):
    actor = world.actor("flaky", **policies())
    world.publish("a", envelope(["a", "b"], {"failures": 9}, headers={"k": "v"}))
    got = world.get("x-sump").envelope
    status = got["status"]
    assert (status["phase"], status["reason"], status["attempt"], status["max_attempts"]) == ("failed", "PolicyExhausted", 3, 3)
    assert status["error"]["type"] == "ValueError" and "not yet" in status["error"]["message"] and status["error"]["traceback"]
    assert got["payload"] == {"failures": 9} and got["route"] == {"prev": [], "curr": "a", "next": ["b"]} and got["headers"] == {"k": "v"}
    assert [run["attempt"] for run in actor.journal("run")] == [1, 2, 3]
    actor.wait_until_idle()
    metrics = actor.metrics()
    assert metrics.get("messages_processed_total", status="retried") == 2
    assert metrics.get("messages_failed_total", reason="policy_exhausted") == 1


def test_case_76_the_message_waits_in_its_own_queue_and_then_goes_on(world):
    actor = world.actor("flaky", **policies())
    world.declare("b")
    world.publish("a", envelope(["a", "b"], {"failures": 2}, headers={"k": "v"}))
    got = world.get("b").envelope
    assert got["payload"] == {"failures": 2} and got["route"] == {"prev": ["a"], "curr": "b", "next": []}
    # What says how often it was tried stays with the actor that tried.
    assert got["headers"] == {"k": "v"} and got["status"]["attempt"] == 1
    first, second, third = moments(actor)
    assert second - first >= 1 - TICK_SECONDS and third - second >= 1 - TICK_SECONDS


def test_case_77_a_delay_that_is_no_step_of_the_ladder_is_kept(world):
    actor = world.actor("flaky", **policies(backoff="exponential", initialDelay="1300ms", maxInterval="3700ms"))
    world.publish("a", envelope(["a"], {"failures": 2}))
    world.get("x-sink")
    first, second, third = moments(actor)
    assert second - first >= 1.3 - TICK_SECONDS and third - second >= 2.6 - TICK_SECONDS


def test_case_78_without_a_delay_it_is_tried_again_at_once(world):
    actor = world.actor("flaky", **policies(initialDelay="0s", jitter=True))
    world.publish("a", envelope(["a"], {"failures": 2}))
    world.get("x-sink")
    assert [run["attempt"] for run in actor.journal("run")] == [1, 2, 3]


@pytest.mark.parametrize(("raises", "runs"), [("KeyError", 1), ("MemoryError", 2), ("ValueError", 3)])
def test_case_80_a_rule_chooses_the_policy_by_error_and_ancestor(world, raises, runs):
    policy = {"backoff": "constant", "initialDelay": "0s"}
    given = {"default": {**policy, "maxAttempts": 3}, "never": {**policy, "maxAttempts": 1}, "twice": {**policy, "maxAttempts": 2}}
    rules = [{"errors": ["LookupError"], "policy": "never"}, {"errors": ["MemoryError"], "policy": "twice"}]
    actor = world.actor("flaky", ASYA_RESILIENCY_POLICIES=json.dumps(given), ASYA_RESILIENCY_RULES=json.dumps(rules))
    world.publish("a", envelope(["a"], {"failures": 9, "raises": raises}))
    status = world.get("x-sump").envelope["status"]
    assert (status["reason"], status["attempt"], len(actor.journal("run"))) == ("PolicyExhausted", runs, runs)


def test_case_81_no_attempt_begins_after_the_longest_duration(world):
    actor = world.actor("flaky", **policies(maxAttempts=50, initialDelay="500ms", maxDuration="1200ms"))
    world.publish("a", envelope(["a"], {"failures": 99}))
    status = world.get("x-sump").envelope["status"]
    assert status["reason"] == "PolicyExhausted" and 1 < status["attempt"] < 5
    all_of_them = moments(actor)
    assert all_of_them[-1] - all_of_them[0] < 1.2 + 1


def test_case_83_what_is_exhausted_goes_where_its_policy_says_and_is_taken_there(world):
    world.actor("flaky", **policies(maxAttempts=2, initialDelay="0s", onExhausted=["mend", "b"]))
    mend = world.actor("echo", name="mend")
    world.declare("b")
    world.publish("a", envelope(["a", "c"], {"failures": 9}))
    got = world.get("b").envelope
    assert got["payload"] == {"failures": 9} and got["route"] == {"prev": ["a", "mend"], "curr": "b", "next": []}
    assert len(mend.journal("run")) == 1 and world.depth("x-sump") == 0


def test_case_85_a_retry_does_not_fail_for_want_of_a_delay(world):
    actor = world.actor("flaky", **policies(maxAttempts=2, initialDelay="2s"))
    world.publish("a", envelope(["a"], {"failures": 1}))
    assert world.get("x-sink").envelope["status"]["phase"] == "succeeded"
    first, second = moments(actor)
    assert second - first >= 2 - TICK_SECONDS


def test_a_handler_asks_for_a_delay_itself(world):
    actor = world.actor("later", **policies(initialDelay="60s"))
    world.publish("a", envelope(["a"], {"after": 1.5}))
    world.get("x-sink")
    first, second = moments(actor)
    assert second - first >= 1.5 - TICK_SECONDS


def test_the_attempt_survives_the_sidecar_and_the_runtime(world):
    actor = world.actor("flaky", **policies(initialDelay="2s"))
    world.publish("a", envelope(["a"], {"failures": 9}))
    actor.wait_for_journal("run", 1)
    actor.wait_until_idle()
    actor.kill()
    actor.start()
    status = world.get("x-sump").envelope["status"]
    assert status["attempt"] == 3 and [run["attempt"] for run in actor.journal("run")] == [1, 2, 3]


def test_a_blob_is_tried_again_whole(world):
    actor = world.actor("blob_until_gate", **policies(initialDelay="1s", maxAttempts=20))
    data = bytes(range(256)) * 40
    blob = {"dtype": "raw", "shape": [len(data)], "data": base64.b64encode(data).decode()}
    world.publish("a", envelope(["a"], {"data": {"$asya.blob": 0}}, blobs=[blob]))
    actor.wait_for_journal("run", 2)
    actor.open_gate()
    got = world.get("x-sink")
    assert got.body.startswith(b'{"data":') and data in got.body


def test_case_87_a_deadline_before_the_timeout_ends_the_call(world):
    actor = world.actor("obey", ASYA_RESILIENCY_ACTOR_TIMEOUT="30s", **policies())
    world.publish("a", due(["a"], {"do": "sleep"}, in_seconds(1.5)))
    status = world.get("x-sump").envelope["status"]
    assert status["reason"] == "DeadlineExceeded" and "while its handler ran" in status["error"]["message"]
    assert len(actor.journal("begin")) == 1
    actor.wait_until_idle()
    assert actor.metric("messages_failed_total", reason="sla_timeout") == 1
    # The sidecar lives, and the next message finds a worker.
    world.publish("a", envelope(["a"], {"do": "nothing"}, "m-2"))
    assert world.get("x-sink").envelope["id"] == "m-2"


def test_case_87_a_deadline_cancels_an_async_call(world):
    actor = world.actor("obey_async", ASYA_RESILIENCY_ACTOR_TIMEOUT="30s")
    before = actor.workers()
    world.publish("a", due(["a"], {"do": "sleep"}, in_seconds(1.5)))
    assert world.get("x-sump").envelope["status"]["reason"] == "DeadlineExceeded"
    assert actor.workers() == before, "its worker lives"


def test_case_89_what_has_time_left_runs_and_what_has_none_does_not(world):
    actor = world.actor("echo")
    world.publish("a", due(["a"], {"n": 1}, in_seconds(-0.001)))
    status = world.get("x-sump").envelope["status"]
    assert status["reason"] == "DeadlineExceeded" and "before its handler ran" in status["error"]["message"]
    # The existing one takes less than a second for nothing left.
    world.publish("a", due(["a"], {"n": 2}, in_seconds(0.9)))
    until(lambda: world.depth("x-sink") or world.depth("x-sump"), "the second message to end")
    assert world.get("x-sink").envelope["payload"] == {"n": 2}
    assert [run["payload"] for run in actor.journal("run")] == [{"n": 2}]


def test_a_deadline_binds_at_the_second_hop(world):
    world.actor("gated", name="b", ASYA_RESILIENCY_ACTOR_TIMEOUT="30s")
    world.actor("echo")
    deadline = in_seconds(2)
    world.publish("a", due(["a", "b"], {"n": 1}, deadline))
    got = world.get("x-sump").envelope
    assert got["route"]["prev"] == ["a"] and got["status"]["actor"] == "b"
    assert got["status"]["reason"] == "DeadlineExceeded" and got["status"]["deadline_at"] == deadline


def test_a_deadline_that_is_none_is_reported_and_the_message_runs(world):
    actor = world.actor("echo")
    world.publish("a", due(["a"], {"n": 1}, "tomorrow"))
    assert world.get("x-sink").envelope["payload"] == {"n": 1}
    assert "is no RFC 3339 time" in actor.log() and "tomorrow" in actor.log()


def test_a_copy_of_what_was_finished_is_dropped_on_request(world):
    actor = world.actor("echo", ASYA_DEDUP_WINDOW="100")
    world.publish("a", envelope(["a"], {"n": 1}))
    world.get("x-sink")
    actor.wait_until_idle()
    world.publish("a", envelope(["a"], {"n": 1}))
    world.publish("a", envelope(["a"], {"n": 2}, "m-2"))
    assert world.get("x-sink").envelope["id"] == "m-2"
    assert len(actor.journal("run")) == 2 and actor.metric("messages_processed_total", status="duplicate") == 1
