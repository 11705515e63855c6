"""The test's own client of SQS, by boto3: publishes and reads messages, declares and deletes queues.

Takes the address of a server. Blocks on its answers. Has the verbs of `broker.Broker`.
"""

import base64
import json

import boto3
import botocore.config
from broker import JSON, NATIVE
from waiting import until


class Message:
    """What was in a queue."""

    def __init__(self, message):
        self.attributes = {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()}
        self.content_type = self.attributes.get("asya-content-type", JSON)
        self.redelivered = message["Attributes"]["ApproximateReceiveCount"] != "1"
        self.text = message["Body"]
        is_base64 = self.content_type == NATIVE or self.attributes.get("asya-encoding") == "base64"
        self.body = base64.b64decode(self.text, validate=True) if is_base64 else self.text.encode()

    @property
    def envelope(self):
        """The JSON envelope."""
        return json.loads(self.body)


class Sqs:
    """One client."""

    def __init__(self, url):
        self.client = boto3.client("sqs", endpoint_url=url, region_name="us-east-1", config=botocore.config.Config(retries={"total_max_attempts": 1}))

    def url(self, queue):
        """The queue's own address; None without such a queue."""
        try:
            return self.client.get_queue_url(QueueName=queue)["QueueUrl"]
        except self.client.exceptions.QueueDoesNotExist:
            return None

    def publish(self, queue, body, content_type=JSON):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        attributes = {"asya-content-type": content_type}
        try:
            if content_type == NATIVE or not body:
                raise ValueError
            text = body.decode()
            text.encode("utf-8")
            if any(character < " " and character not in "\t\r\n" for character in text):
                raise ValueError
        except ValueError:
            text = base64.b64encode(body).decode() or " "
            attributes |= {} if content_type == NATIVE else {"asya-encoding": "base64" if body else "empty"}
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        self.client.send_message(QueueUrl=until(lambda: self.url(queue), f"the queue {queue}"), MessageBody=text, MessageAttributes=attributes)

    def get(self, queue):
        """Takes the next message out of a queue; waits for it."""

        def take():
            url = self.url(queue)
            if url is None:
                return None
            got = self.client.receive_message(
                QueueUrl=url, MaxNumberOfMessages=1, WaitTimeSeconds=1, MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"]
            ).get("Messages")
            if not got:
                return None
            self.client.delete_message(QueueUrl=url, ReceiptHandle=got[0]["ReceiptHandle"])
            return Message(got[0])

        return until(take, f"a message in {queue}")

    def attributes(self, queue):
        """The queue's attributes; None without such a queue."""
        url = self.url(queue)
        return url and self.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]

    def depth(self, queue):
        """Messages that wait in a queue; None without such a queue."""
        found = self.attributes(queue)
        return found and int(found["ApproximateNumberOfMessages"])

    def held(self, queue):
        """Messages of a queue that somebody has for now."""
        return int(self.attributes(queue)["ApproximateNumberOfMessagesNotVisible"])

    def declare(self, queue, **attributes):
        self.client.create_queue(QueueName=queue, Attributes=attributes)

    def delete(self, queue):
        self.client.delete_queue(QueueUrl=self.url(queue))

    def close(self):
        self.client.close()
