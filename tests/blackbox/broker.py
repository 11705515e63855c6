"""The test's own client of the broker, by pika: publishes and reads messages, declares and deletes queues.

Takes a URL. Blocks on the broker's answers. A refusal that closes the channel is raised, and the next call opens another.
"""

import json

import pika
import pika.exceptions
from waiting import until

JSON = "application/json"
NATIVE = "application/vnd.asya.native"


def _unless_starting(ask):
    """What `ask` gives; None for a quorum queue that is named already and does not run yet (RabbitMQ 3.10 calls it an internal error)."""
    try:
        return ask()
    except pika.exceptions.ConnectionClosedByBroker as closed:
        if "noproc" not in closed.reply_text:
            raise
        return None


class Message:
    """What was in a queue."""

    def __init__(self, method, properties, body):
        self.redelivered = method.redelivered
        self.properties = properties
        self.content_type = properties.content_type
        self.body = body

    @property
    def envelope(self):
        """The JSON envelope."""
        return json.loads(self.body)


class Broker:
    """One connection, opened again whenever it is found closed."""

    def __init__(self, url):
        parameters = pika.URLParameters(url)
        parameters.heartbeat = 0  # nothing answers heartbeats while a test waits for something else
        self._parameters = parameters
        self._connection = self._channel = None

    def channel(self):
        if self._connection is None or self._connection.is_closed:
            self._connection = pika.BlockingConnection(self._parameters)
            self._channel = None
        if self._channel is None or self._channel.is_closed:
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
        return self._channel

    def publish(self, queue, body, content_type=JSON):
        """Confirmed and mandatory: a message that is sent has arrived."""
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        properties = pika.BasicProperties(content_type=content_type, delivery_mode=2)
        self.channel().basic_publish("", queue, body, properties, mandatory=True)

    def get(self, queue):
        """Takes the next message out of a queue; waits for it."""

        def take():
            method, properties, body = self.channel().basic_get(queue, auto_ack=True)
            return Message(method, properties, body) if method else None

        return until(lambda: _unless_starting(take), f"a message in {queue}")

    def depth(self, queue):
        """Messages that wait in a queue; None without such a queue."""
        found = self._look(queue)
        return found and found.message_count

    def consumers(self, queue):
        """Who consumes a queue; None without such a queue."""
        found = self._look(queue)
        return found and found.consumer_count

    def _look(self, queue):
        try:
            return _unless_starting(lambda: self.channel().queue_declare(queue, passive=True).method)
        except pika.exceptions.ChannelClosedByBroker:
            return None

    def declare(self, queue, **arguments):
        """A durable queue: quorum, unless said otherwise."""
        self.channel().queue_declare(queue, durable=True, arguments=arguments or {"x-queue-type": "quorum"})

    def delete(self, queue):
        self.channel().queue_delete(queue)

    def close(self):
        if self._connection and self._connection.is_open:
            self._connection.close()
