"""Cases 1 to 30, 73, 93 and 131 of docs/COMPATIBILITY.md: where a message goes, and what it looks like there."""

import base64
import os
import socket
import subprocess

from broker import NATIVE
from conftest import envelope
from stack import SIDECAR
from waiting import until


def older(actors, current, payload, identity="m-1", **more):
    """A message with the older route."""
    return {"id": identity, "route": {"actors": actors, "current": current}, "payload": payload, **more}


def failure(message):
    """(reason, error) of a message in the failure sink."""
    status = message.envelope["status"]
    assert status["phase"] == "failed"
    return status["reason"], status["error"]


def test_case_01_older_route_moves_on_in_its_own_shape(world):
    world.actor("echo")
    world.declare("b")
    world.publish("a", older(["a", "b"], 0, {"n": 1}, headers={"k": "v"}))
    got = world.get("b").envelope
    assert got["id"] == "m-1" and got["payload"] == {"n": 1} and got["headers"] == {"k": "v"}
    assert got["route"] == {"actors": ["a", "b"], "current": 1}
    assert "parent_id" not in got


def test_the_newer_route_moves_on_in_its_own_shape(world):
    world.actor("echo")
    world.declare("b")
    world.publish("a", envelope(["a", "b", "c"], [1, "two", None]))
    got = world.get("b").envelope
    assert got["route"] == {"prev": ["a"], "curr": "b", "next": ["c"]} and got["payload"] == [1, "two", None]
    assert got["status"]["phase"] == "pending" and got["status"]["actor"] == "b" and got["status"]["attempt"] == 1


def test_case_02_end_of_route_goes_to_the_sink(world):
    # The older name of the sink names the same queue.
    actor = world.actor("echo", ASYA_ACTOR_HAPPY_END="happy-end")
    world.publish("a", older(["a"], 0, {"n": 2}))
    got = world.get("x-sink").envelope
    assert got["route"] == {"actors": ["a"], "current": 1} and got["payload"] == {"n": 2}
    assert got["status"]["phase"] == "succeeded" and got["status"]["reason"] == "Completed"
    actor.wait_until_idle()
    assert world.depth("x-sump") == 0


def test_case_04_current_out_of_bounds_goes_to_the_sump(world):
    actor = world.actor("echo")
    for current in (7, -1):
        body = older(["a"], current, {"n": current})
        world.publish("a", body)
        got = world.get("x-sump")
        reason, error = failure(got)
        assert reason == "ParseError" and "current" in error["message"]
        assert got.envelope["id"] == "" and '"n": %d' % current in got.envelope["payload"]["original_body"]
    # A finished route is well formed; it is only not for this actor.
    world.publish("a", older(["a"], 1, {"n": 4}))
    got = world.get("x-sump")
    assert failure(got)[0] == "RouteMismatch"
    assert got.envelope["id"] == "m-1" and got.envelope["payload"] == {"n": 4}
    assert actor.journal() == []


def test_a_message_for_another_actor_is_refused(world):
    actor = world.actor("echo")
    world.publish("a", envelope(["b", "c"], 1))
    got = world.get("x-sump")
    reason, error = failure(got)
    assert reason == "RouteMismatch" and '"b"' in error["message"] and '"a"' in error["message"]
    # The name of a queue can be read in two ways (asya-a-b-c): so the message may name its namespace.
    world.publish("a", envelope(["a"], 2, namespace="another"))
    reason, error = failure(world.get("x-sump"))
    assert reason == "RouteMismatch" and '"another"' in error["message"]
    assert actor.metric("messages_failed_total", reason="route_mismatch") == 2 and actor.journal() == []


def test_case_05_not_json_goes_to_the_sump(world):
    actor = world.actor("echo")
    world.publish("a", b"hello")
    got = world.get("x-sump").envelope
    assert got["id"] == "" and got["route"] == {"prev": [], "curr": "x-sump", "next": []}
    assert got["status"]["phase"] == "failed" and got["status"]["reason"] == "ParseError"
    payload = got["payload"]
    assert payload["error"] == "msg_parsing_error" and payload["original_body"] == "hello"
    assert "byte 0" in payload["details"]["message"] and payload["details"]["type"]
    actor.wait_until_idle()
    assert world.depth("a") == 0
    assert actor.metric("messages_failed_total", reason="parse_error") == 1


def test_case_07_none_ends_at_the_sink_unadvanced(world):
    actor = world.actor("end")
    world.publish("a", older(["a", "b"], 0, {"n": 3}))
    got = world.get("x-sink").envelope
    assert got["route"] == {"actors": ["a", "b"], "current": 0} and got["payload"] == {"n": 3}
    assert got["status"]["phase"] == "succeeded"
    actor.wait_until_idle()
    assert actor.metric("messages_processed_total", status="empty_response") == 1


def test_case_07_an_empty_list_is_one_payload(world):
    world.actor("empty_list")
    world.declare("b")
    world.publish("a", envelope(["a", "b"], 1))
    assert world.get("b").envelope["payload"] == []


def test_case_08_handler_error_goes_to_the_sump(world):
    actor = world.actor("fail")
    sent = envelope(["a", "b"], {"n": 1}, headers={"traceparent": "00-1-2-01"})
    world.publish("a", sent)
    got = world.get("x-sump")
    reason, error = failure(got)
    assert reason == "RuntimeError" and error["type"] == "ValueError" and error["message"] == "no such thing"
    assert "Exception" in error["mro"] and "fail" in error["traceback"]
    for same in ("id", "route", "payload", "headers"):
        assert got.envelope[same] == sent[same]
    actor.wait_until_idle()
    assert len(actor.journal("run")) == 1
    assert actor.metric("runtime_errors_total", error_type="execution_error") == 1
    assert world.depth("x-sink") == 0


def test_case_10_fan_out_ids_are_the_same_each_time(world):
    world.actor("three")
    world.declare("b")
    for _ in range(2):
        world.publish("a", envelope(["a", "b"], {}))
    got = [world.get("b").envelope for _ in range(6)]
    by_number = {number: {one["id"] for one in got if one["payload"] == {"number": number}} for number in range(3)}
    assert by_number[0] == {"m-1"} and all(len(ids) == 1 for ids in by_number.values())
    assert len(set.union(*by_number.values())) == 3
    assert all(one.get("parent_id") == (None if one["payload"]["number"] == 0 else "m-1") for one in got)


def test_case_11_nothing_is_taken_without_a_runtime(world):
    actor = world.actor(start=False)
    actor.start_sidecar()
    until(lambda: "connected to the broker" in actor.log(), "the sidecar to connect")
    world.publish("a", envelope(["a", "b"], 1))
    status, why = actor.page("/readyz")
    assert status == 503 and "worker" in why
    assert world.depth("a") == 1 and actor.metric("messages_received_total") == 0
    world.declare("b")
    actor.start_runtime()
    assert world.get("b").envelope["id"] == "m-1"


def test_case_11_what_is_held_goes_back_when_no_worker_returns(world):
    actor = world.actor("gated")
    world.publish("a", envelope(["a", "b"], 1))
    actor.wait_for_journal("begin", 1)
    actor.runtime.kill()
    until(lambda: world.depth("a") == 1, "the message to go back")
    actor.wait_until_idle()
    assert actor.sidecar.poll() is None and actor.page("/readyz")[0] == 503
    # Uncharged, and under suspicion: whoever takes it next runs it alone.
    status = world.get("a").envelope["status"]
    assert status["attempt"] == 1 and (status["phase"], status["reason"]) == ("retrying", "Suspected")


def test_case_12_failing_sump_leaves_the_delivery_unsettled(world):
    actor = world.actor("fail")
    world.broker.delete(world.queue("x-sump"))
    world.publish("a", envelope(["a"], {"n": 1}))
    until(lambda: actor.metric("publish_retries_total") >= 2, "the publish to be tried again")
    assert len(actor.journal("run")) == 1 and actor.metric("active_messages") == 1
    # It is not acked: with the sidecar gone the broker has it again.
    actor.sidecar.kill()
    until(lambda: world.depth("a") == 1, "the delivery to go back")
    actor.start_sidecar()
    actor.wait_until_ready()  # by then the failure sink is declared again
    assert world.get("x-sump").envelope["payload"] == {"n": 1}


def test_case_13_missing_next_queue_ends_at_the_sump(world):
    actor = world.actor("echo", ASYA_QUEUE_RETRY_MAX_ATTEMPTS="3")
    sent = envelope(["a", "nowhere"], {"n": 1}, headers={"k": "v"})
    world.publish("a", sent)
    got = world.get("x-sump")
    reason, error = failure(got)
    assert reason == "Unroutable" and world.queue("nowhere") in error["message"] and "3" in error["message"]
    for same in ("id", "route", "payload", "headers"):
        assert got.envelope[same] == sent[same]
    actor.wait_until_idle()
    assert len(actor.journal("run")) == 1 and world.depth("a") == 0
    assert actor.metric("messages_failed_total", reason="routing_error") == 1
    assert world.queue("nowhere") in actor.log()


def test_case_13_a_queue_that_appears_in_time_gets_the_message(world):
    actor = world.actor("echo")
    world.publish("a", envelope(["a", "late"], {"n": 1}))
    until(lambda: actor.metric("publish_retries_total") >= 2, "the publish to be tried again")
    world.declare("late")
    assert world.get("late").envelope["payload"] == {"n": 1}
    assert len(actor.journal("run")) == 1


def test_case_14_queue_names(world):
    world.actor("echo", name="some-actor")
    for actor in ("some-actor", "x-sink", "x-sump"):
        assert world.depth(actor) == 0 and world.depth(f"{actor}-dlq") == 0, actor


def run_sidecar(**environment):
    """(status, standard error) of a sidecar that cannot start."""
    environment = {"PATH": os.environ["PATH"], **environment}
    done = subprocess.run([SIDECAR], env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_case_131_an_unknown_transport_is_a_mistake():
    status, text = run_sidecar(ASYA_ACTOR_NAME="a", ASYA_TRANSPORT="pigeon")
    assert status == 64 and "pigeon" in text and "rabbitmq" in text


def test_case_14_an_end_actor_declares_both_sinks(world):
    for end in ("x-sink", "x-sump"):
        world.actor("end", name=end).kill()
        for actor in ("x-sink", "x-sump"):
            assert world.depth(actor) == 0 and world.depth(f"{actor}-dlq") == 0, (end, actor)
            world.broker.delete(world.queue(actor))


def test_case_15_end_actor_takes_everything(world):
    actor = world.actor("end", name="x-sink")
    bodies = [
        envelope(["another", "b"], 1),
        {"id": "m", "route": {"prev": ["a"], "curr": "", "next": []}, "payload": 2},
        older(["a", "b"], 0, 3),
        older(["a"], 1, 4),
    ]
    for body in bodies:
        world.publish("x-sink", body)
    until(lambda: actor.metric("messages_processed_total", status="end_consumed") == len(bodies), "all to be consumed")
    actor.wait_until_idle()
    assert sorted(line["payload"] for line in actor.journal("run")) == [1, 2, 3, 4]
    assert actor.metric("messages_sent_total") == 0 and world.depth("x-sink") == 0
    # Without actors, or out of bounds, it is no message: the failure sink has it.
    for body in (older([], 0, 5), older(["a"], 9, 6)):
        world.publish("x-sink", body)
        assert failure(world.get("x-sump"))[0] == "ParseError"


def test_case_19_end_actor_error_is_not_acked(world):
    actor = world.actor("fail_until_gate", name="x-sink")
    world.publish("x-sink", envelope(["a"], 1))
    actor.wait_for_journal("run", 1)
    until(lambda: actor.metric("messages_failed_total", reason="runtime_error") == 1, "the failure to be counted")
    assert actor.metric("active_messages") == 1 and actor.metric("messages_sent_total") == 0
    actor.sidecar.kill()
    until(lambda: world.depth("x-sink") == 1, "the delivery to go back")
    actor.open_gate()
    actor.start_sidecar()
    until(lambda: actor.metric("messages_processed_total", status="end_consumed") == 1, "it to be consumed")
    actor.wait_until_idle()
    assert world.depth("x-sink") == 0


def test_case_21_no_gateway_no_calls(world):
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        gateway.setblocking(False)
        actor = world.actor("echo", ASYA_GATEWAY_URL=f"http://127.0.0.1:{gateway.getsockname()[1]}")
        world.publish("a", envelope(["a"], 1))
        world.get("x-sink")
        actor.wait_until_idle()
        assert "ASYA_GATEWAY_URL" in actor.log() and "no effect" in actor.log()
        try:
            gateway.accept()
            raise AssertionError("somebody called the gateway")
        except BlockingIOError:
            pass


def test_case_27_custom_metrics_are_accepted_and_a_wrong_prefix_is_not(world):
    actor = world.actor("echo", ASYA_CUSTOM_METRICS="{not json")
    assert "ASYA_CUSTOM_METRICS" in actor.log()
    status, text = run_sidecar(ASYA_ACTOR_NAME="a", ASYA_METRICS_NAMESPACE="9bad-name")
    assert status == 64 and "9bad-name" in text


def test_case_28_missing_actor_name_fails_the_start_with_every_mistake():
    status, text = run_sidecar(ASYA_WORKERS="none", ASYA_RESILIENCY_ACTOR_TIMEOUT="soon")
    assert status == 64
    for word in ("ASYA_ACTOR_NAME", "ASYA_WORKERS", "ASYA_RESILIENCY_ACTOR_TIMEOUT"):
        assert word in text, word


def test_case_29_one_success_is_counted(world):
    actor = world.actor("echo")
    world.declare("b")
    world.publish("a", envelope(["a", "b"], 1))
    world.get("b")
    actor.wait_until_idle()
    metrics = actor.metrics()
    assert metrics.get("messages_received_total", queue="a", transport=world.kind) == 1
    assert metrics.get("messages_processed_total", queue="a", status="success") == 1
    assert metrics.get("messages_sent_total", destination_queue=world.queue("b"), message_type="routing") == 1
    assert metrics.get("active_messages") == 0
    assert [actor.page(path)[0] for path in ("/health", "/healthz", "/readyz")] == [200, 200, 200]


def test_case_30_route_grown_by_the_handler(world):
    world.actor("steer")
    world.declare("c")
    world.publish("a", envelope(["a", "b"], {"next": ["c", "d"]}))
    assert world.get("c").envelope["route"] == {"prev": ["a"], "curr": "c", "next": ["d"]}
    world.publish("a", older(["a", "b"], 0, {"next": ["c", "d", "e"]}))
    assert world.get("c").envelope["route"] == {"actors": ["a", "c", "d", "e"], "current": 1}
    world.publish("a", envelope(["a", "b"], {"next": []}))
    assert world.get("x-sink").envelope["route"]["prev"] == ["a"]


def test_case_73_an_error_is_final_and_the_first_attempt(world):
    actor = world.actor("fail")
    world.publish("a", envelope(["a"], 1))
    status = world.get("x-sump").envelope["status"]
    assert (status["phase"], status["reason"], status["attempt"]) == ("failed", "RuntimeError", 1)
    assert len(actor.journal("run")) == 1


def test_case_93_headers_reach_the_next_actor(world):
    world.actor("headers")
    world.declare("b")
    world.publish("a", envelope(["a", "b"], {}, headers={"kept": [1, 2]}))
    by_number = {one["payload"]["number"]: one["headers"] for one in (world.get("b").envelope, world.get("b").envelope)}
    assert by_number == {0: {"kept": [1, 2]}, 1: {"kept": [1, 2], "mark": "set by a"}}


def test_binary_data_in_a_json_message_goes_on_as_it_is(world):
    world.actor("double")
    world.declare("b")
    blob = {"dtype": "raw", "shape": [5], "data": base64.b64encode(b"\x00\xff\x01ab").decode()}
    world.publish("a", envelope(["a", "b"], {"data": {"$asya.blob": 0}}, blobs=[blob]))
    got = world.get("b")
    assert got.content_type == NATIVE
    assert got.body.startswith(b'{"data":{"$asya.blob":0}}') and b"\x00\xff\x01ab" * 2 in got.body
