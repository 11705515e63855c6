#!/usr/bin/env python3
"""A client of SQS by boto3, which shares no code with the project; it has the verbs of `pika_client.py`.

    boto_client.py URL send|read|hold|depth QUEUE

Calls go ten messages at a time, several at once. Blocks until its input ends (`send`) or it is killed. Ends with an error when no call
has succeeded for PATIENCE_SECONDS.
"""

import queue as queues
import sys
import threading
import time

import boto3
import botocore.config
import botocore.exceptions

PATIENCE_SECONDS = 120
CALLS_AT_ONCE = 4
BATCH = 10
# Of the bodies of one call: a quarter of what SQS takes, and below what the oldest servers take.
BATCH_BYTES = 200_000
# Longer than any pause that a suite makes.
VISIBILITY_SECONDS = 120
_ATTRIBUTES = {"asya-content-type": {"DataType": "String", "StringValue": "application/json"}}
_LOST = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)


class Client:
    """Calls of one queue, repeated until they succeed."""

    def __init__(self, url, queue):
        config = botocore.config.Config(
            retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30, max_pool_connections=2 * CALLS_AT_ONCE,
            parameter_validation=False,
        )  # fmt: skip
        self.sqs = boto3.client("sqs", endpoint_url=url, region_name="us-east-1", config=config)
        self.queue = self.insist(lambda: self.sqs.get_queue_url(QueueName=queue)["QueueUrl"])

    @staticmethod
    def insist(call, failed=lambda: None):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return call()
            except _LOST:
                if time.monotonic() > deadline:
                    raise
                failed()
                time.sleep(0.2)

    def receive(self, wait=2):
        """Up to ten messages; none while the server is away."""
        return self.insist(
            lambda: self.sqs.receive_message(
                QueueUrl=self.queue, MaxNumberOfMessages=BATCH, WaitTimeSeconds=wait, VisibilityTimeout=VISIBILITY_SECONDS,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
        ).get("Messages", [])  # fmt: skip

    def depth(self):
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]
        found = self.insist(lambda: self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names))["Attributes"]
        return sum(int(found[name]) for name in names)


_output = threading.Lock()


def say(text):
    with _output:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def at_once(work):
    """Runs `work` in several threads; an error in any ends the process."""

    def guarded():
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    failures = []
    threads = [threading.Thread(target=guarded, daemon=True) for _ in range(CALLS_AT_ONCE)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not failures:
        for thread in threads:
            thread.join(0.2)
    if failures:
        raise failures[0]


def send(client):
    lines = queues.Queue(maxsize=20 * BATCH)

    def read():
        for line in sys.stdin:
            lines.put(line.rstrip("\n"))
        for _ in range(CALLS_AT_ONCE):
            lines.put(None)

    def batch():
        """The next messages; [] when there are no more."""
        taken, size = [], 0
        while len(taken) < BATCH and size < BATCH_BYTES:
            try:
                line = lines.get(block=not taken)
            except queues.Empty:
                break
            if line is None:
                lines.put(None)
                break
            taken.append(line.split("\t", 1))
            size += len(taken[-1][1])
        return taken

    def work():
        while taken := batch():
            waiting = dict(enumerate(taken))
            while waiting:
                entries = [{"Id": str(key), "MessageBody": body, "MessageAttributes": _ATTRIBUTES} for key, (_, body) in waiting.items()]
                again = "\n".join(f"again {identity}" for identity, _ in waiting.values())
                answer = client.insist(lambda: client.sqs.send_message_batch(QueueUrl=client.queue, Entries=entries), lambda: say(again))
                for one in answer.get("Successful", []):
                    say(waiting.pop(int(one["Id"]))[0])
                for one in answer.get("Failed", []):
                    if one["SenderFault"]:
                        raise SystemExit(f"refused: {one}")

    threading.Thread(target=read, daemon=True).start()
    at_once(work)


def read(client):
    def work():
        while True:
            came = client.receive()
            if came:
                say("\n".join(message["Body"] for message in came))
                entries = [{"Id": str(key), "ReceiptHandle": message["ReceiptHandle"]} for key, message in enumerate(came)]
                client.insist(lambda: client.sqs.delete_message_batch(QueueUrl=client.queue, Entries=entries))

    at_once(work)


def hold(client):
    held = []
    most = []
    say("holding")

    def listen():
        most.append(int(sys.stdin.readline()))

    threading.Thread(target=listen, daemon=True).start()
    while not most:
        held += client.receive(wait=1)
    held.sort(key=lambda message: -int(message["Attributes"]["ApproximateReceiveCount"]))
    back = list(reversed(held[most[0] :]))
    for start in range(0, len(back), BATCH):
        entries = [
            {"Id": str(key), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0}
            for key, message in enumerate(back[start : start + BATCH])
        ]
        client.insist(lambda entries=entries: client.sqs.change_message_visibility_batch(QueueUrl=client.queue, Entries=entries))
    say(f"gave {len(back)}")
    threading.Event().wait()


def depth(client):
    say(str(client.depth()))


if __name__ == "__main__":
    address, verb, name = sys.argv[1:]
    {"send": send, "read": read, "hold": hold, "depth": depth}[verb](Client(address, name))
