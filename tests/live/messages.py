"""The messages of a suite: what is sent, and what must have become of it. Pure.

Each actor of the route adds one to `n` and its name to `trail`, so that a message that arrives says which way it took.
"""

import json
import time


def message_id(number):
    return f"k-{number:05}"


class Messages:
    """Messages 0, 1, 2, … of one route. Texts differ from message to message; one in `every` is `large` bytes."""

    def __init__(self, route, every=12, large=200_000):
        self.route, self.every, self.large = route, every, large

    def extra(self, number):
        """What else the payload of a message says."""
        return {}

    def text(self, number):
        length = self.large if number % self.every == self.every - 1 else 200 + number % 800
        return (f"{number:08x}" * (length // 8 + 1))[:length]

    def payload(self, number, passed):
        """The payload once the first `passed` actors have handled it."""
        trail = self.route[:passed]
        return {"id": message_id(number), "n": number + passed, "trail": trail, "text": self.text(number), **self.extra(number)}

    def body(self, number):
        """The JSON envelope."""
        route = {"prev": [], "curr": self.route[0], "next": self.route[1:]}
        return json.dumps({"id": message_id(number), "route": route, "payload": self.payload(number, 0)})

    def what_is_wrong(self, envelope):
        """What a message at the success sink says that it should not; None when it is right."""
        number = int(envelope["id"].partition("-")[2])
        if envelope["payload"] != self.payload(number, len(self.route)):
            return "payload"
        if envelope["route"]["prev"] != self.route or envelope["route"].get("next"):
            return "route"
        return None

    def line_of(self, queue, envelope):
        """What is written down of a message that has arrived."""
        status = envelope.get("status") or {}
        return {
            "queue": queue,
            "id": envelope["id"],
            "hop": len(envelope["route"].get("prev", [])),
            "at": time.monotonic(),
            "wrong": self.what_is_wrong(envelope) if queue.endswith("-x-sink") else None,
            "reason": status.get("reason"),
            "error": (status.get("error") or {}).get("type"),
        }
