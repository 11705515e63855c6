"""Cases 14, 34 to 36 and 137 of docs/COMPATIBILITY.md on SQS, and what only SQS has: leases, text bodies, no connection."""

import json
import time

import pytest
from conftest import envelope
from proxy import Proxy
from waiting import until

pytestmark = pytest.mark.only("sqs", "leases, text bodies, requests")


def through_a_proxy(world):
    """(proxy, address through it)."""
    host, port = world.url.removeprefix("http://").split(":")
    proxy = Proxy((host, int(port)))
    world.closers.append(proxy.close)
    return proxy, f"http://127.0.0.1:{proxy.port}"


def test_case_14_queues_are_made_with_dead_letter_queues_and_tags(world):
    world.actor("echo")
    attributes = world.broker.attributes(world.queue("a"))
    policy = json.loads(attributes["RedrivePolicy"])
    assert policy["deadLetterTargetArn"].endswith(f":{world.queue('a')}-dlq") and policy["maxReceiveCount"] == 100
    tags = world.broker.client.list_queue_tags(QueueUrl=world.broker.url(world.queue("a")))["Tags"]
    assert tags == {"asya.sh/managed-by": "asya", "asya.sh/namespace": world.namespace, "asya.sh/actor": "a"}


def test_case_32_what_a_message_looks_like(world):
    world.actor("echo")
    world.declare("b")
    world.publish("a", envelope(["a", "b"], {"text": "\ufffe"}, identity="some-id"))
    got = world.get("b")
    assert got.attributes == {"asya-content-type": "application/json", "asya-message-id": "some-id"}
    # A person can read it, though SQS refuses that character.
    assert '"\\ufffe"' in got.text and got.envelope["payload"] == {"text": "\ufffe"}


def test_case_35_an_idle_actor_polls_until_a_message_comes(world):
    world.actor("echo", ASYA_SQS_WAIT_TIME_SECONDS="1")
    time.sleep(3)  # several polls come back empty: nothing tells of that
    world.publish("a", envelope(["a"], 1))
    assert world.get("x-sink").envelope["payload"] == 1


def test_case_36_a_drain_makes_what_is_held_visible_at_once(world):
    actor = world.actor("gated", ASYA_SQS_VISIBILITY_TIMEOUT="10m", ASYA_GRACE_PERIOD="2s")
    world.publish("a", envelope(["a"], 1))
    actor.wait_for_journal("begin", 1)
    actor.sidecar.terminate()
    assert actor.wait_for_end(actor.sidecar, "the sidecar") == 0
    until(lambda: world.depth("a") == 1, "the message to be back long before its lease is over")


def test_case_137_a_deleted_queue_is_declared_again(world):
    actor = world.actor("echo", ASYA_SQS_WAIT_TIME_SECONDS="1")
    world.broker.delete(world.queue("a"))
    until(lambda: world.broker.url(world.queue("a")), "the queue to be declared again")
    world.publish("a", envelope(["a"], 1))
    assert world.get("x-sink").envelope["payload"] == 1
    assert actor.sidecar.poll() is None


def test_case_33_an_existing_queue_is_used_as_it_is(world):
    world.broker.declare(world.queue("a"), VisibilityTimeout="33")
    actor = world.actor("echo")
    world.publish("a", envelope(["a"], 1))
    assert world.get("x-sink").envelope["payload"] == 1
    until(lambda: "it has no dead-letter queue" in actor.log(), "the difference to be told")
    assert world.broker.attributes(world.queue("a"))["VisibilityTimeout"] == "33"


def test_a_call_that_outlasts_the_visibility_timeout_runs_once(world):
    actor = world.actor("obey")
    for number in range(8):  # so that the handler's speed is known and more than one message is held
        world.publish("a", envelope(["a"], {"n": number}))
        world.get("x-sink")
    actor.wait_until_idle()
    for number in range(3):
        world.publish("a", envelope(["a"], {"do": "gate"}, identity=f"m-{number}"))
    until(lambda: world.broker.held(world.queue("a")) == 3, "one to run and others to wait")
    end = time.monotonic() + 12  # more than twice as long as a lease lasts
    while time.monotonic() < end:
        assert world.depth("a") == 0
        time.sleep(0.2)
    actor.open_gate()
    assert {world.get("x-sink").envelope["id"] for _ in range(3)} == {"m-0", "m-1", "m-2"}
    until(lambda: world.broker.held(world.queue("a")) == 0, "all to be deleted")
    assert len(actor.journal("begin")) == 11 and world.depth("a") == 0
    assert actor.metric("settle_failures_total") == 0


def test_a_cut_network_costs_no_delivery(world):
    proxy, url = through_a_proxy(world)
    actor = world.actor("gated", ASYA_SQS_ENDPOINT=url, ASYA_SQS_VISIBILITY_TIMEOUT="60s")
    world.declare("b")
    world.publish("a", envelope(["a", "b"], 1))
    actor.wait_for_journal("begin", 1)
    proxy.refuse(True)
    until(lambda: actor.page("/readyz")[0] == 503, "the broker to be missed")
    assert actor.metric("broker_connected") == 0
    actor.open_gate()
    until(lambda: actor.journal("end"), "the call to end")
    proxy.refuse(False)
    actor.wait_until_ready()
    assert world.get("b").envelope["payload"] == 1
    until(lambda: world.broker.held(world.queue("a")) == 0, "the message to be deleted")
    assert len(actor.journal("begin")) == 1 and world.depth("a") == 0


def test_a_sidecar_without_credentials_says_so(world):
    actor = world.actor("echo", start=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del actor.environment[name]
    actor.environment["HOME"] = actor.folder
    actor.start_sidecar()
    assert actor.wait_for_end(actor.sidecar, "the sidecar") == 1
    assert "credentials" in actor.log()
