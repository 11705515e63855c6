#!/usr/bin/env python3
"""The kill suite: 10,000 messages through three actors while sidecars, workers, supervisors and connections are killed.

Takes ASYA_TEST_AMQP_URLS (see tests/servers/with-brokers.sh) and the built programs. Each kill waits until at least half of
the victim's window is in flight and a message is in the stage that is to be hit; kinds and stages go round. Prints progress,
then the counts, and last one JSON object. Blocks for minutes, but never longer than PATIENCE_SECONDS without progress. Fails
when a message has no outcome, a duplicate or a failure has no kill that explains it, or a process ended by itself.
"""

import argparse
import collections
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "live"))

import actors  # noqa: E402
import verdict  # noqa: E402
import worlds  # noqa: E402
from messages import Messages  # noqa: E402
from pipeline import PATIENCE_SECONDS, Pipeline  # noqa: E402

ROUTE = ["a", "b", "c"]
HANDLERS = {"a": "function", "b": "coroutine", "c": "generator"}
# Each a little slower than the one before it, so that all three queues fill up.
SLOWER = {"a": 1.0, "b": 1.2, "c": 1.4}
NAMESPACE = "kill"
# How long the actor whose turn it is is waited for, before any other will do as well.
TURN_SECONDS = 1.5
# How long, after that, the stage is waited for, before any other will do as well.
STAGE_SECONDS = 1.0
# A window smaller than this would make "half of it" say little.
LEAST_WINDOW = 8
# Messages that may be on their way at once: enough to keep three windows full.
ON_THEIR_WAY = 1500


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=60, help="how many; a multiple of 20 hits every kind in every stage equally often")
    parser.add_argument("--seconds", type=float, default=0.05, help="how long a handler takes")
    parser.add_argument("--memory", default="1MiB", help="each sidecar's bound on bytes in flight")
    parser.add_argument("--sidecar", default=f"{target}/release/asya-sidecar")
    parser.add_argument("--runtime", default="target/asya-runtime.pyz")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--embedded", metavar="FOLDER", help="run on the embedded broker too, with embedded_broker and embedded_tool of that folder")
    parser.add_argument("--keep", action="store_true", help="leave the logs and journals")
    return parser.parse_args()


class Suite(Pipeline):
    """One run on one broker."""

    def __init__(self, given, world, folder):
        super().__init__(world, Messages(ROUTE), NAMESPACE, folder)
        self.given = given
        environment = {
            **world.environment(),
            "ASYA_NAMESPACE": NAMESPACE,
            "ASYA_WORKERS": "2",
            "ASYA_CONCURRENCY": "16",
            # Little memory: the bound on bytes is met again and again, and bodies wait in the socket.
            "ASYA_MAX_MESSAGE_BYTES": "512KiB",
            "ASYA_MEMORY_BYTES": given.memory,
            "ASYA_MAX_WINDOW": "64",
            "KILL_JOURNAL": self.journal,
        }
        programs = {"sidecar": os.path.abspath(given.sidecar), "runtime": os.path.abspath(given.runtime), "python": given.python}
        self.actors = [
            actors.Actor(
                name, HANDLERS[name], HERE, folder, programs,
                {**environment, "KILL_SECONDS": str(given.seconds * SLOWER[name])}, world.broker_port(),
            )
            for name in ROUTE
        ]  # fmt: skip

    def run(self):
        journal = os.path.join(self.folder, "sent")
        self.start(lambda queue: self.world.sender(queue, self.messages, self.given.messages, journal))
        started = time.monotonic()
        self.kill_all()
        self.sender.allow(self.given.messages)
        faults = self.finish()
        return time.monotonic() - started, faults

    def allowance(self):
        """Each kill has its share of the messages, so that there are some in flight for the last one too; more of them only
        while nothing is left to hit."""
        share = self.given.messages * (len(self.kills) + 3) // max(self.given.kills, 1)
        if len(self.answered) == self.sender.sent:
            share = max(share, self.sender.sent + ON_THEIR_WAY // 4)
        return min(share, len(self.answered) + ON_THEIR_WAY)

    # --- killing ---

    def kill_all(self):
        plan = itertools.islice(itertools.cycle(itertools.product(self.world.stages, self.world.kinds)), self.given.kills)
        for number, (stage, kind) in enumerate(plan):
            if not self.kill_one(number, kind, stage):
                print(f"no messages are left for the other {self.given.kills - number} kills", flush=True)
                return

    def kill_one(self, number, kind, stage):
        """Find an actor with half of its window in flight and a message in that stage, and hit it. False: nothing is left to hit."""
        begun = time.monotonic()
        # The last actor first: while the others are well, its queue is the fullest.
        turn = [self.actors[(index - number) % len(ROUTE)] for index in range(len(ROUTE) - 1, -1, -1)]
        while len(self.answered) < self.given.messages:
            self.look()
            waited = time.monotonic() - begun
            for actor in turn if waited > TURN_SECONDS else turn[:1]:
                gauges = actor.gauges()
                if not gauges or not gauges.workers or gauges.window < LEAST_WINDOW or 2 * gauges.in_flight < gauges.window:
                    continue
                if stage == "finished":
                    hit = self.hit_finished(actor, kind, gauges)
                elif gauges.stages.get(stage) or waited > TURN_SECONDS + STAGE_SECONDS:
                    hit = self.hit(actor, kind, gauges, stage)
                else:
                    continue
                if hit:
                    print(f"{number + 1:3} of {self.given.kills}: {describe(self.kills[-1])}", flush=True)
                    return True
        return False

    def hit_finished(self, actor, kind, gauges):
        """Break an actor's connections (or the whole broker) while another consumer holds its queue, so that what it then finishes
        has lost its delivery and is not claimed. Let it fill its window again with the rest of the queue, and kill; then the
        other consumer gives back what it holds."""
        holder = self.world.hold(self.queue(actor.name))
        try:
            if not self.hit(actor, self.world.kinds[-1], gauges, "publishing"):
                return False
            until = time.monotonic() + STAGE_SECONDS
            narrowed = False
            while True:
                now = actor.gauges()
                if now and not narrowed and (now.stages.get("finished") or time.monotonic() > until):
                    narrowed = True
                    until = time.monotonic() + TURN_SECONDS
                    holder.narrow(gauges.window)
                if now and narrowed and (2 * now.in_flight >= now.window >= LEAST_WINDOW or time.monotonic() > until):
                    return self.hit(actor, kind, now, "finished")
                if time.monotonic() > until + PATIENCE_SECONDS:
                    raise SystemExit(f"the sidecar of {actor.name} does not answer")
        finally:
            holder.release()

    def hit(self, actor, kind, gauges, stage):
        """Kill, and write down when, what and where. Says whether there was something to kill."""
        at = time.monotonic()
        if kind == "broker":
            self.world.kill()
        elif not actor.kill(kind):
            return False
        where = stage if gauges.stages.get(stage) else max(gauges.stages, key=gauges.stages.get)
        kill = {"at": at, "done": time.monotonic(), "kind": kind, "actor": actor.name if kind != "broker" else verdict.EVERY, "stage": where, "active": gauges.in_flight, "window": gauges.window}
        self.kills.append({**kill, "stages": gauges.stages})
        self.moved = at
        return True


def describe(kill):
    return f"{kill['kind']} of {kill['actor']} in {kill['stage']}; {kill['active']} of {kill['window']} in flight: {kill['stages']}"


def run_on(given, make_world):
    """Runs the suite on one broker; returns its summary and what was wrong."""
    folder = tempfile.mkdtemp(prefix="asya-kill-")
    world = make_world(folder)
    suite = Suite(given, world, folder)
    try:
        seconds, faults = suite.run()
    except BaseException:
        print(f"logs and journals: {folder}", file=sys.stderr)
        raise
    finally:
        suite.write_kills()
        world.stop()
    runs = verdict.Journal(suite.journal).runs
    counts, wrong = verdict.judge(suite.sent(), runs, suite.kills, verdict.read_lines(suite.received), ROUTE, suite.sender.resent)
    faults += wrong
    stages = collections.Counter(kill["stage"] for kill in suite.kills)
    if given.kills:
        faults += [f"no kill has hit the stage {stage}" for stage in world.stages if not stages[stage]]
        kinds = {kill["kind"] for kill in suite.kills}
        faults += [f"no {kind} was killed" for kind in world.kinds if kind not in kinds]
        if len(suite.kills) < given.kills * 2 // 3:
            faults.append(f"only {len(suite.kills)} of {given.kills} kills found something to hit")
    summary = {
        "broker": world.name,
        **counts,
        "kills": dict(collections.Counter(kill["kind"] for kill in suite.kills)),
        "stages": {stage: stages[stage] for stage in world.stages},
        "in_flight_at_kill": sum(kill["active"] for kill in suite.kills),
        "below_half_window": sum(2 * kill["active"] < kill["window"] for kill in suite.kills),
        "seconds": round(seconds, 1),
    }
    summary["faults"] = len(faults)
    if faults or given.keep:
        print(f"logs and journals: {folder}")
    else:
        subprocess.run(["rm", "-rf", folder], check=True)
    return summary, faults


def main():
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = False
    on = []
    for pair in os.environ.get("ASYA_TEST_AMQP_URLS", "").split():
        version, _, url = pair.partition("=")
        on.append(lambda _, version=version, url=url: worlds.RabbitMq(version, url))
    if given.embedded:
        on.append(lambda folder: worlds.Embedded(given.embedded, folder))
    for make_world in on:
        summary, faults = run_on(given, make_world)
        for fault in faults[:50]:
            print(f"fault: {fault}")
        print(json.dumps(summary), flush=True)
        failed = failed or bool(faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
