"""The two ends of a pipeline: a sender that keeps a journal, a reader of what came of it, and somebody who is in the way.

Each runs one of the clients (`pika_client.py`, `boto_client.py`, `embedded_tool`), which take lines and print lines, and looks after
it by threads. Blocks on nothing but `finish`.
"""

import json
import subprocess
import threading
import time

import actors
from messages import message_id

# A client that is asked to stop has this long before it is killed.
FINISH_SECONDS = 60


def spawn(command, **pipes):
    return subprocess.Popen(command, text=True, preexec_fn=actors.die_with_parent, **pipes)


class Sender:
    """Sends messages 0, 1, 2, … as fast as `allow` lets it; the journal has a message only once it is confirmed.

    `count`: how many there are (None: until `close`). `twice`: numbers for which this is true are sent two times.
    """

    def __init__(self, command, messages, count, journal, twice=lambda number: False):
        self.messages, self.count, self.twice = messages, count, twice
        self.journal = open(journal, "a")
        self.allowed = self.taken = self.sent = 0
        self.failure = None
        self.resent = set()  # what was sent again, unsure of the first
        self.doubled = {}  # {id: when the first of two was confirmed}
        self.more = threading.Condition()
        self.process = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def allow(self, number):
        """Let the first `number` messages go."""
        with self.more:
            self.allowed = max(self.allowed, number if self.count is None else min(number, self.count))
            self.more.notify_all()

    def close(self):
        """There are no more messages than were allowed."""
        with self.more:
            self.count = self.allowed
            self.more.notify_all()

    def finish(self):
        """Wait until everything is sent, and close the journal."""
        for thread in self.threads:
            thread.join(FINISH_SECONDS)
        self.process.kill()
        self.process.wait()
        self.journal.close()

    def _write(self):
        try:
            while True:
                with self.more:
                    self.more.wait_for(lambda: self.allowed > self.taken or self.taken == self.count)
                    until = self.allowed
                if until == self.taken:
                    break
                for number in range(self.taken, until):
                    line = f"{message_id(number)}\t{self.messages.body(number)}\n"
                    self.process.stdin.write(line * 2 if self.twice(number) else line)
                self.process.stdin.flush()
                self.taken = until
            self.process.stdin.close()
        except OSError as failure:  # told by the suite, whose thread cannot see it
            self.failure = failure

    def _read(self):
        confirmed = set()
        for line in self.process.stdout:
            again, _, identity = line.rstrip("\n").rpartition(" ")
            if again:
                self.resent.add(identity)
            elif identity in confirmed:
                confirmed.discard(identity)
            else:
                now = time.monotonic()
                if self.twice(int(identity.partition("-")[2])):
                    confirmed.add(identity)
                    self.doubled[identity] = now
                self.journal.write(f"{identity} {now:.6f}\n")
                self.sent += 1
        if self.sent != self.count:
            self.failure = self.failure or f"its client ended after {self.sent} messages"


class Reader:
    """Appends one JSON line to a file for every message of some queues, each read by a client of its own."""

    def __init__(self, commands, messages, path):
        self.file = open(path, "a")
        self.lock = threading.Lock()
        self.messages = messages
        self.processes = []
        for queue, command in commands.items():
            process = spawn(command, stdout=subprocess.PIPE)
            self.processes.append(process)
            threading.Thread(target=self._read, args=(queue, process), daemon=True).start()

    def _read(self, queue, process):
        for body in process.stdout:
            line = self.messages.line_of(queue, json.loads(body))
            with self.lock:
                self.file.write(json.dumps(line) + "\n")
                self.file.flush()

    def failure(self):
        """The status of a client that has ended, or None."""
        return next((process.returncode for process in self.processes if process.poll() is not None), None)

    def kill(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


class Holder:
    """Another consumer of an actor's queue: what the actor loses goes there, and comes back when this is released."""

    def __init__(self, command):
        self.process = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()  # it says that it holds, or has ended

    def narrow(self, most):
        """Give back all but so many, of which what was delivered before is kept first, and take no more."""
        self.process.stdin.write(f"{most}\n")
        self.process.stdin.flush()

    def given_back(self):
        """Waits until `narrow` is done; how many it gave back."""
        return int((self.process.stdout.readline() or "0").split()[-1])

    def release(self):
        self.process.kill()
        self.process.wait()
