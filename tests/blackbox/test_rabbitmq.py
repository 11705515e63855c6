"""Cases 31 to 38, 137 and 144 of docs/COMPATIBILITY.md: what is between the sidecar and its broker."""

import pika
import pytest
from conftest import envelope
from proxy import Proxy
from waiting import until


def through_a_proxy(world):
    """(proxy, URL through it)."""
    target = pika.URLParameters(world.url)
    proxy = Proxy((target.host, target.port))
    world.closers.append(proxy.close)
    return proxy, world.url.replace(f":{target.port}", f":{proxy.port}")


@pytest.mark.only("rabbitmq", "a connection that is lost")
def test_case_31_consumes_again_after_the_connection_is_lost(world):
    proxy, url = through_a_proxy(world)
    actor = world.actor("echo", ASYA_RABBITMQ_URL=url)
    for number in range(2):
        world.publish("a", envelope(["a"], number))
        assert world.get("x-sink").envelope["payload"] == number
        assert proxy.cut() == 2  # one connection consumes, the other publishes
    until(lambda: actor.metric("reconnects_total") == 2, "both reconnects")
    actor.wait_until_ready()


@pytest.mark.only("rabbitmq", "its list of consumers")
def test_case_137_a_deleted_queue_is_declared_again(world):
    actor = world.actor("echo")
    world.broker.delete(world.queue("a"))
    until(lambda: world.broker.consumers(world.queue("a")) == 1, "the queue to be declared and consumed again")
    world.publish("a", envelope(["a"], 1))
    assert world.get("x-sink").envelope["payload"] == 1
    assert actor.sidecar.poll() is None


@pytest.mark.only("rabbitmq", "AMQP properties")
def test_case_32_publish_properties(world):
    world.actor("echo")
    world.declare("b")
    world.publish("a", envelope(["a", "b"], 1, identity="some-id"))
    properties = world.get("b").properties
    assert properties.delivery_mode == 2 and properties.content_type == "application/json"
    assert properties.message_id == "some-id" and properties.timestamp is None


@pytest.mark.only("rabbitmq", "AMQP properties")
def test_case_32_what_goes_on_as_native_says_so(world):
    world.actor("echo", ASYA_ENCODING="native")
    world.declare("b")
    world.publish("a", envelope(["a", "b"], {"n": 1}))
    got = world.get("b")
    assert got.properties.content_type == "application/vnd.asya.native" and got.body.startswith(b'{"n":1}')


@pytest.mark.only("rabbitmq", "its exchanges")
def test_case_32_the_older_exchange_reaches_the_actor_when_asked(world):
    world.actor("echo", name=f"{world.namespace}-a", ASYA_COMPAT_EXCHANGE="true")
    body = b'{"id": "m-1", "route": {"actors": ["%s-a"], "current": 0}, "payload": 1}' % world.namespace.encode()
    world.broker.channel().basic_publish("asya", f"{world.namespace}-a", body, mandatory=True)
    assert world.get("x-sink").envelope["payload"] == 1


@pytest.mark.only("rabbitmq", "its queue types")
def test_case_33_an_existing_queue_is_used_as_it_is(world):
    classic = {"x-queue-type": "classic"}
    world.broker.declare(world.queue("a"), **classic)
    actor = world.actor("echo")
    world.publish("a", envelope(["a"], 1))
    assert world.get("x-sink").envelope["payload"] == 1
    until(lambda: "used as it is" in actor.log(), "the difference to be told")
    world.broker.declare(world.queue("a"), **classic)  # refused if it were another queue by now


def test_case_34_requeue_redelivers_uncharged(world):
    actor = world.actor("gated", ASYA_GRACE_PERIOD="2s")
    world.declare("b")
    world.publish("a", envelope(["a", "b"], 1))
    for drains in range(1, 4):
        actor.wait_for_journal("begin", drains)
        actor.sidecar.terminate()
        assert actor.wait_for_end(actor.sidecar, "the sidecar") == 0
        actor.wait_for_end(actor.runtime, "the runtime")
        until(lambda: world.depth("a") == 1, "the message to be back")
        actor.start()
    actor.open_gate()
    got = world.get("b").envelope
    assert got["payload"] == 1 and got["status"]["attempt"] == 1
    assert world.depth("x-sump") == 0


@pytest.mark.only("rabbitmq", "a connection that is lost")
def test_case_34_void_tags_are_ignored_and_a_running_message_is_adopted(world):
    proxy, url = through_a_proxy(world)
    actor = world.actor("gated", ASYA_RABBITMQ_URL=url)
    world.declare("b")
    world.publish("a", envelope(["a", "b"], 1))
    actor.wait_for_journal("begin", 1)
    proxy.cut()
    until(lambda: actor.metric("adopted_total") == 1, "the redelivery to find its message")
    actor.open_gate()
    assert world.get("b").envelope["payload"] == 1
    actor.wait_until_idle()
    assert len(actor.journal("begin")) == 1 and world.depth("a") == 0 and world.depth("b") == 0


def test_case_38_restarts_of_either_side(world):
    actor = world.actor("echo")

    def next_message_succeeds(number):
        world.publish("a", envelope(["a"], number))
        assert world.get("x-sink").envelope["payload"] == number
        world.wait_until_settled("a")

    next_message_succeeds(0)
    actor.runtime.kill()
    actor.runtime.wait()
    actor.start_runtime()
    next_message_succeeds(1)
    actor.sidecar.kill()
    actor.sidecar.wait()
    actor.start_sidecar()
    next_message_succeeds(2)
    actor.kill()
    actor.start()
    next_message_succeeds(3)
    assert [line["payload"] for line in actor.journal("run")] == [0, 1, 2, 3]
    assert world.depth("x-sump") == 0


def test_case_144_a_hundred_messages_are_all_done(world):
    actor = world.actor("echo", ASYA_WORKERS="2")
    for number in range(100):
        world.publish("a", envelope(["a"], number, identity=f"m-{number}"))
    got = [world.get("x-sink").envelope for _ in range(100)]
    assert sorted(one["payload"] for one in got) == list(range(100))
    assert all(one["id"] == f"m-{one['payload']}" for one in got)
    actor.wait_until_idle()
    assert world.depth("x-sink") == 0 and world.depth("x-sump") == 0 and len(actor.journal("run")) == 100


@pytest.mark.only("rabbitmq", "its log")
def test_a_drained_sidecar_takes_leave_of_the_broker(world):
    actor = world.actor("echo")
    world.publish("a", envelope(["a"], 1))
    world.get("x-sink")
    name = f"asya {world.namespace}/a".encode()
    actor.sidecar.terminate()
    assert actor.wait_for_end(actor.sidecar, "the sidecar") == 0

    def ended():
        return [line for line in world.broker_log() if name in line and b"closing AMQP connection" in line]

    # RabbitMQ says the same of a client that has vanished, with a warning and why.
    until(lambda: len(ended()) == 2, "the broker to see both connections end")
    assert not [line for line in ended() if b"[warning]" in line or b"[error]" in line]
