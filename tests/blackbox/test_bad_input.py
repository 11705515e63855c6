"""Bad input gives a clear error and loses nothing: what was sent is in a sink or a dead-letter queue, whole."""

import json
import os

from broker import NATIVE
from conftest import envelope
from stack import REPOSITORY
from waiting import until

# Larger than the default ASYA_MAX_MESSAGE_BYTES, smaller than what RabbitMQ 3.10 takes (128 MiB).
LARGE = 100_000_000


def vector(kind, name):
    """The bytes of a golden vector."""
    with open(os.path.join(REPOSITORY, "tests/vectors/vectors.json")) as file:
        body = next(case for case in json.load(file)[kind] if case["name"] == name)["body"]
    return bytes.fromhex(body["hex"]) if "hex" in body else body["text"].encode()


def failure(message):
    status = message.envelope["status"]
    return status["reason"], status["error"]["message"]


def test_not_json(world):
    actor = world.actor("echo")
    bodies = [b"", b"\xff\xfe", b'{"id": "m", "payload": 1', b"[1, 2]", b'{"id": 5, "route": {"curr": "a"}, "payload": 1}']
    for body in bodies:
        world.publish("a", body)
        got = world.get("x-sump")
        reason, message = failure(got)
        assert reason == "ParseError" and message
        payload = got.envelope["payload"]
        kept = payload["original_body"]
        assert kept == body.decode() if payload["original_body_encoding"] == "utf-8" else kept == "//4="
    actor.wait_until_idle()
    assert actor.metric("messages_failed_total", reason="parse_error") == len(bodies)
    world.publish("a", envelope(["a"], "good"))
    assert world.get("x-sink").envelope["payload"] == "good"


def test_a_native_message_of_an_unknown_version_goes_to_the_sump_byte_for_byte(world):
    actor = world.actor("echo")
    body = vector("malformed", "native_version_2")
    world.publish("a", body, NATIVE)
    got = world.get("x-sump")
    assert got.body == body and got.content_type == NATIVE
    actor.wait_until_idle()
    assert "version 2" in actor.log() and world.depth("a") == 0


def test_a_truncated_native_head_goes_to_the_sump(world):
    world.actor("echo")
    for name in ("native_cut_in_head", "native_cut_at_end"):
        world.publish("a", vector("malformed", name), NATIVE)
        got = world.get("x-sump")
        assert failure(got)[0] == "ParseError"
        assert got.envelope["payload"]["original_content_type"] == NATIVE
    # Its sound original is a message, though one for another actor.
    world.publish("a", vector("envelopes", "native_minimal"), NATIVE)
    until(lambda: world.depth("x-sump") == 1, "the original to be refused")


def large_message(identity):
    return b'{"id": "%s", "route": {"curr": "a", "next": ["b"]}, "payload": {"text": "' % identity + b"x" * LARGE + b'"}}'


def test_a_body_of_100_mb_goes_to_the_dead_letter_queue_whole(world):
    if world.version not in ("3.10", "embedded"):
        return refused_by_the_broker(world)
    actor = world.actor("size")
    world.declare("b")
    body = large_message(b"large")
    world.publish("a", body)
    world.publish("a", envelope(["a", "b"], {"text": "small"}))
    assert world.get("b").envelope["payload"] == {"length": 5}
    assert world.get("a-dlq").body == body
    actor.wait_until_idle()
    assert actor.metric("messages_failed_total", reason="too_large") == 1
    assert "ASYA_MAX_MESSAGE_BYTES" in actor.log() and actor.metric("arena_used_bytes", region="input") == 0


def refused_by_the_broker(world):
    """RabbitMQ takes no more than 16 MiB by default from 4.0 on, SQS 1 MiB of base64: a larger result fails its message."""
    actor = world.actor("grow", ASYA_MAX_MESSAGE_BYTES="128MiB")
    world.publish("a", envelope(["a", "b"], {"bytes": 20_000_000}))
    reason, message = failure(world.get("x-sump"))
    assert reason == "MessageTooLarge" and ("786048" if world.kind == "sqs" else "16777216") in message
    actor.wait_until_idle()
    assert world.depth("a") == 0


def test_a_body_of_100_mb_passes_where_it_may(world):
    if world.version not in ("3.10", "embedded"):
        return
    world.actor("size", ASYA_MAX_MESSAGE_BYTES="128MiB")
    world.declare("b")
    world.publish("a", large_message(b"large"))
    assert world.get("b").envelope["payload"] == {"length": LARGE}


def test_a_route_to_nowhere(world):
    actor = world.actor("echo", ASYA_QUEUE_RETRY_MAX_ATTEMPTS="2")
    for route in (["a", "nowhere"], ["a", "not a name!"], ["a", "x" * 300]):
        sent = envelope(route, {"n": 1})
        world.publish("a", sent)
        got = world.get("x-sump")
        reason, message = failure(got)
        assert reason == "Unroutable" and message and got.envelope["payload"] == {"n": 1} and got.envelope["route"] == sent["route"]
    actor.wait_until_idle()
    assert world.depth("a") == 0


def test_a_result_that_is_no_json_is_the_messages_error(world):
    world.actor("not_json")
    world.publish("a", envelope(["a"], {"n": 1}))
    got = world.get("x-sump")
    assert failure(got)[0] == "RuntimeError" and "not JSON" in failure(got)[1] and got.envelope["payload"] == {"n": 1}


def test_a_handler_that_does_not_import_takes_nothing_and_says_why(world):
    actor = world.actor("broken_handler.handle", start=False, ASYA_RUNTIME_READY_TIMEOUT="4s")
    world.declare("a")
    world.publish("a", envelope(["a"], 1))
    actor.start_sidecar()
    actor.start_runtime()
    until(lambda: "a_package_that_nobody_has" in actor.page("/readyz")[1], "the reason to be told")
    assert actor.page("/readyz")[0] == 503 and actor.page("/healthz")[0] == 200
    assert actor.wait_for_end(actor.sidecar, "the sidecar") == 1
    assert "the handler cannot be loaded" in actor.log() and "ASYA_RUNTIME_READY_TIMEOUT" in actor.log()
    assert "ModuleNotFoundError" in actor.log("runtime") and world.depth("a") == 1


def test_a_handler_that_is_not_there_takes_nothing_and_says_why(world):
    actor = world.actor("handlers.ecko", start=False)
    actor.start_sidecar()
    actor.start_runtime()
    until(lambda: "did you mean 'echo'?" in actor.page("/readyz")[1], "the reason to be told")
