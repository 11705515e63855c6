"""What every test has: a broker, and a world of its own in it: a fresh namespace, whose queues nobody has used."""

import os
import secrets
import shutil
import subprocess
import sys

import pytest
from broker import JSON, Broker
from stack import REPOSITORY, Actor
from waiting import until


def _urls(name):
    return dict(pair.split("=", 1) for pair in os.environ.get(name, "").split())


_AMQP_URLS, _SQS_URLS = _urls("ASYA_TEST_AMQP_URLS"), _urls("ASYA_TEST_SQS_URLS")
SQS, EMBEDDED = "sqs", "embedded"
# The folder of embedded_broker and embedded_ask, where these tests run on the embedded broker.
_PROGRAMS = os.environ.get("ASYA_BLACKBOX_EMBEDDED")


def envelope(route, payload, identity="m-1", **more):
    """A message for the first actor of the route."""
    return {"id": identity, "route": {"prev": [], "curr": route[0], "next": list(route[1:])}, "payload": payload, **more}


class World:
    """One namespace, its actors, and the test's view of its queues."""

    def __init__(self, version, url, broker, runtime):
        # 3.10 or 4.3 of RabbitMQ, or SQS, or EMBEDDED.
        self.version, self.url, self.broker = version, url, broker
        self.namespace = f"bb-{secrets.token_hex(4)}"
        self.actors = []
        self.closers = []
        self._runtime = runtime

    def queue(self, actor):
        return f"asya-{self.namespace}-{actor}"

    def actor(self, handler="echo", name="a", start=True, **environment):
        """An actor that serves `handlers.{handler}`; more environment by keyword."""
        actor = Actor(
            {
                **self.transport(),
                "ASYA_NAMESPACE": self.namespace,
                "ASYA_ACTOR_NAME": name,
                "ASYA_HANDLER": handler if "." in handler else f"handlers.{handler}",
                "ASYA_QUEUE_RETRY_BACKOFF": "50ms",
                **environment,
            },
            self._runtime,
        )
        self.actors.append(actor)
        if start:
            actor.start()
        return actor

    @property
    def kind(self):
        """The transport's name."""
        return self.version if self.version in (SQS, EMBEDDED) else "rabbitmq"

    def transport(self):
        """What tells a sidecar of the broker."""
        if self.kind == EMBEDDED:
            return {"ASYA_TRANSPORT": "embedded", "ASYA_EMBEDDED_SOCKET": self.url}
        if self.kind == SQS:
            # What a killed sidecar held comes back only when its lease is over: soon.
            return {
                "ASYA_TRANSPORT": "sqs", "ASYA_SQS_ENDPOINT": self.url,
                "ASYA_SQS_VISIBILITY_TIMEOUT": "5s", "ASYA_SQS_WAIT_TIME_SECONDS": "2",
            }  # fmt: skip
        return {"ASYA_TRANSPORT": "rabbitmq", "ASYA_RABBITMQ_URL": self.url}

    def declare(self, *actors):
        """Queues of actors that nobody serves here."""
        for name in actors:
            self.broker.declare(self.queue(name))

    def publish(self, actor, body, content_type=JSON):
        self.broker.publish(self.queue(actor), body, content_type)

    def get(self, actor):
        return self.broker.get(self.queue(actor))

    def depth(self, actor):
        return self.broker.depth(self.queue(actor))

    def wait_until_settled(self, actor):
        """The broker has seen the settlement of everything that this actor took, so that a kill brings nothing back."""
        next(one for one in self.actors if one.environment["ASYA_ACTOR_NAME"] == actor).wait_until_idle()
        if self.kind != "rabbitmq":
            until(lambda: self.broker.held(self.queue(actor)) == 0, f"the deliveries of {actor} to be settled")

    def broker_log(self):
        """The lines that the broker has logged."""
        folder = os.environ[f"ASYA_TEST_BROKER_DIR_{self.version.replace('.', '_')}"]
        with open(os.path.join(folder, "log", "broker.log"), "rb") as file:
            return file.read().splitlines()

    def close(self, failed):
        for actor in self.actors:
            actor.kill()
            if failed:
                for what in ("sidecar", "runtime"):
                    print(f"--- {what} of {actor.environment['ASYA_ACTOR_NAME']}\n{actor.log(what)[-6000:]}")
            shutil.rmtree(actor.folder, ignore_errors=True)
        for close in self.closers:
            close()


@pytest.fixture(scope="session")
def runtime_file(tmp_path_factory):
    """The runtime as it is shipped."""
    target = tmp_path_factory.mktemp("runtime") / "asya-runtime.pyz"
    subprocess.run([sys.executable, os.path.join(REPOSITORY, "runtime/build.py"), target], check=True, stdout=subprocess.DEVNULL)
    return str(target)


@pytest.fixture(scope="session")
def connection(tmp_path_factory):
    """(version, url, client) of the broker."""
    if len(_AMQP_URLS) + bool(_SQS_URLS) + bool(_PROGRAMS) != 1:
        pytest.exit("run these by tests/blackbox/run.sh, which starts one broker", returncode=64)
    if _SQS_URLS:
        from sqs import Sqs

        version, url = SQS, _SQS_URLS["elasticmq"]
        client = Sqs(url)
    elif _PROGRAMS:
        from embedded import Embedded

        client = Embedded(_PROGRAMS, str(tmp_path_factory.mktemp("broker")))
        version, url = EMBEDDED, client.socket
    else:
        ((version, url),) = _AMQP_URLS.items()
        client = Broker(url)
    yield version, url, client
    client.close()


def pytest_configure(config):
    config.addinivalue_line("markers", "only(broker, why): a test about one kind of broker, `rabbitmq`, `sqs` or `embedded`")


def pytest_runtest_setup(item):
    kind = SQS if _SQS_URLS else EMBEDDED if _PROGRAMS else "rabbitmq"
    for mark in item.iter_markers("only"):
        if mark.args[0] != kind:
            pytest.skip(f"about {mark.args[0]}: {mark.args[1]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.failed = getattr(item, "failed", False) or report.failed
    return report


@pytest.fixture
def world(request, connection, runtime_file):
    world = World(*connection, runtime_file)
    yield world
    world.close(getattr(request.node, "failed", False))
