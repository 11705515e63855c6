"""A pipeline under watch: its actors, its sender, its reader, and what has an outcome so far.

Takes a world (`worlds.py`), the messages and the actors; gives counts. Blocks in `wait`, never longer than PATIENCE_SECONDS without
progress; then, and when an end of the pipeline fails, the suite ends with what is missing.
"""

import json
import os
import time

from messages import message_id

# Nothing has moved for so long: the run has failed.
PATIENCE_SECONDS = 120.0


class Pipeline:
    """One run on one broker."""

    def __init__(self, world, messages, namespace, folder):
        self.world, self.messages, self.namespace, self.folder = world, messages, namespace, folder
        self.kills = []
        self.journal = os.path.join(folder, "runs")
        self.received = os.path.join(folder, "received")
        open(self.journal, "w").close()
        open(self.received, "w").close()
        self.actors = []
        self.sender = self.reader = None
        self.answered = set()
        self.read_to = 0
        self.moved = time.monotonic()

    def queue(self, actor):
        return f"asya-{self.namespace}-{actor}"

    def start(self, sender):
        """Start the actors, then the reader of all sinks, then the sender that this makes of a queue's name."""
        for actor in self.actors:
            actor.start()
        self.wait(lambda: all(self.is_ready(actor) for actor in self.actors), "every actor to be ready")
        names = [actor.name for actor in self.actors]
        sinks = [self.queue(name) for name in ("x-sink", "x-sump", *(f"{name}-dlq" for name in names))]
        self.reader = self.world.reader(sinks, self.messages, self.received)
        self.sender = sender(self.queue(names[0]))
        self.sender.start()

    def allowance(self):
        """How many messages may have been sent by now."""
        raise NotImplementedError

    def look(self):
        """Take in what has happened since; raise when nothing has for too long."""
        if self.sender and self.sender.failure:
            raise SystemExit(f"the sender failed: {self.sender.failure!r}")
        if self.reader and self.reader.failure() is not None:
            raise SystemExit(f"a reader ended with {self.reader.failure()}")
        for actor in self.actors:
            actor.watch()
        with open(self.received) as file:
            file.seek(self.read_to)
            text = file.read()
        whole = text.rpartition("\n")[0]
        if whole:
            self.read_to += len(whole.encode()) + 1
            before = len(self.answered)
            self.answered.update(json.loads(line)["id"] for line in whole.split("\n"))
            if len(self.answered) > before:
                self.moved = time.monotonic()
        if self.sender:
            self.sender.allow(self.allowance())
        if time.monotonic() - self.moved > PATIENCE_SECONDS:
            raise SystemExit(f"nothing has moved for {PATIENCE_SECONDS:.0f} s; {self.missing()}")

    def missing(self):
        if not self.sender:
            return "nothing is sent yet"
        missing = sorted({message_id(number) for number in range(self.sender.taken)} - self.answered)
        return f"{len(missing)} of {self.sender.taken} messages have no outcome: {missing[:10]}"

    def wait(self, condition, what):
        begun = time.monotonic()
        while not condition():
            self.look()
            if time.monotonic() - begun > 10 * PATIENCE_SECONDS:
                raise SystemExit(f"waited too long for {what}")
            time.sleep(0.05)

    def is_ready(self, actor):
        gauges = actor.gauges()
        self.moved = time.monotonic() if gauges and gauges.workers else self.moved
        return bool(gauges and gauges.workers and gauges.connected)

    def is_quiet(self):
        gauges = [actor.gauges() for actor in self.actors]
        return all(each and each.active == 0 for each in gauges) and all(self.world.depth(self.queue(actor.name)) == 0 for actor in self.actors)

    def finish(self):
        """Wait for the rest, drain the actors, end the reader; the faults of all this."""
        self.wait(lambda: self.sender.count is not None and len(self.answered) >= self.sender.count, "every message to have an outcome")
        self.wait(self.is_quiet, "the actors to have nothing in flight")
        self.sender.finish()
        statuses = {actor.name: actor.stop() for actor in self.actors}
        left = {name: self.world.depth(self.queue(name)) for name in (*statuses, "x-sink", "x-sump")}
        self.reader.kill()
        faults = [fault for actor in self.actors for fault in actor.unexpected]
        faults += [f"the sidecar of {name} ended with {status} when it was asked to drain" for name, status in statuses.items() if status != 0]
        faults += [f"{count} messages are left in {self.queue(name)}" for name, count in left.items() if count]
        return faults

    def write_kills(self):
        with open(os.path.join(self.folder, "kills"), "w") as file:
            file.writelines(json.dumps(kill) + "\n" for kill in self.kills)

    def sent(self):
        with open(os.path.join(self.folder, "sent")) as file:
            return {line.split()[0] for line in file}
