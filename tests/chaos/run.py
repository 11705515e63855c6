#!/usr/bin/env python3
"""The chaos suite: a pipeline under load while everything around it is broken, as a seed says.

Takes brokers (ASYA_TEST_AMQP_URLS and ASYA_TEST_SQS_URLS, see tests/servers/with-brokers.sh; the embedded one it starts itself)
and the built programs; tests/chaos/run.sh has all of that. On each transport it sends messages until there are --messages of them,
--minutes are over and every kind of fault has had its turn; then it waits for every outcome and joins every duplicate with the
fault that brought it about. Prints progress, and last one JSON object for each transport.

Fails when a message has no outcome, when one arrives changed, when a duplicate or a failure has no fault that explains it, when a
kind of fault never struck, or when a process ended by itself. Never blocks longer than `pipeline.PATIENCE_SECONDS` without progress.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), folder) for folder in ("live", "servers")]

import actors  # noqa: E402
import plan  # noqa: E402
import rabbitmq  # noqa: E402
import strikes  # noqa: E402
import verdict  # noqa: E402
import worlds  # noqa: E402
from messages import Messages  # noqa: E402
from pipeline import Pipeline  # noqa: E402

PREFIX = "asya-chaos-"
NAMESPACE = "chaos"
ROUTE = ["a", "b", "c"]
HANDLERS = {"a": "function", "b": "coroutine", "c": "generator"}
# How long a call may take, and how much longer one that hangs may live: being cancelled, and a busy machine.
CALL_SECONDS, LINGER_SECONDS = 5.0, 5.0
# Every error is tried again after this. Longer than what a sidecar waits itself, so that the broker's delays are used.
RETRY_SECONDS = 1.5
# A handler notes the time before its sidecar hears of the error, and its next begin after it was given the message.
TICK_SECONDS = 0.01
# Messages that may be on their way at once: enough to keep every window full.
ON_THEIR_WAY = 2000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transports", nargs="+", default=list(plan.KINDS), choices=plan.KINDS)
    parser.add_argument("--seed", type=int, default=None, help="where everything follows from (default: another one each time)")
    parser.add_argument("--messages", type=int, default=0, help="at least so many on each transport")
    parser.add_argument("--minutes", type=float, default=0, help="at least so long on each transport")
    parser.add_argument("--actors", type=int, nargs="+", default=[3], choices=[1, 2, 3], help="how many, for all transports or for each")
    parser.add_argument("--programs", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release"))
    parser.add_argument("--runtime", default="target/asya-runtime.pyz")
    parser.add_argument("--keep", action="store_true", help="leave the logs and journals")
    given = parser.parse_args()
    given.actors = given.actors * len(given.transports) if len(given.actors) == 1 else given.actors
    if len(given.actors) != len(given.transports):
        parser.error("--actors takes one number, or one for each transport")
    return given


class Told(Messages):
    """Messages that say what is to be done with them."""

    def __init__(self, seed, route):
        super().__init__(route, every=250, large=100_000)
        self.seed = seed

    def extra(self, number):
        what, _ = plan.doing(self.seed, number, self.route)
        return {"do": what} if what else {}

    def twice(self, number):
        return plan.doing(self.seed, number, self.route)[1]


class Chaos(Pipeline):
    """One run on one broker."""

    def __init__(self, given, seed, world, route, folder, small_disk):
        super().__init__(world, Told(seed, route), NAMESPACE, folder)
        self.given, self.seed = given, seed
        self.cutters = {}
        environment = {
            "ASYA_NAMESPACE": NAMESPACE,
            "ASYA_WORKERS": "2",
            "ASYA_CONCURRENCY": "8",
            "ASYA_MAX_WINDOW": "256",
            "ASYA_MAX_MESSAGE_BYTES": "1MiB",
            "ASYA_MEMORY_BYTES": "16MiB",
            "ASYA_GRACE_PERIOD": "30s",
            "ASYA_RESILIENCY_ACTOR_TIMEOUT": f"{CALL_SECONDS:g}s",
            "ASYA_RESILIENCY_POLICIES": json.dumps({
                "default": {"maxAttempts": 20, "backoff": "constant", "initialDelay": f"{RETRY_SECONDS * 1000:.0f}ms"}
            }),
            "CHAOS_JOURNAL": self.journal,
        }  # fmt: skip
        programs = {"sidecar": os.path.abspath(f"{given.programs}/asya-sidecar"), "runtime": os.path.abspath(given.runtime), "python": sys.executable}
        for name in route:
            where = os.path.join(folder, f"{name}.sock") if "/" in world.address else "tcp"
            cutter = self.cutters[name] = strikes.Cutter(world.address, where)
            told = {**environment, **world.environment(cutter.address)}
            self.actors.append(actors.Actor(name, HANDLERS[name], HERE, folder, programs, told))
        kinds = plan.KINDS[world.transport]
        self.striker = strikes.Striker(self, self.cutters, small_disk, kinds)

    def allowance(self):
        more = self.sender.count if self.sender.count is not None else len(self.answered) + ON_THEIR_WAY
        return min(more, len(self.answered) + ON_THEIR_WAY)

    def run(self):
        journal = os.path.join(self.folder, "sent")
        self.start(lambda queue: self.world.sender(queue, self.messages, None, journal, twice=self.messages.twice))
        faults = plan.faults(self.seed, self.world.transport, len(self.actors), self.world.patience + 3)
        left = plan.round_length(self.world.transport)
        begun = time.monotonic()
        while left > 0 or len(self.answered) < self.given.messages or time.monotonic() - begun < 60 * self.given.minutes:
            what = self.striker.strike(next(faults))
            left -= 1
            print(f"{time.monotonic() - begun:6.1f} s  {len(self.answered):7} through  {what}  {self.windows()}", flush=True)
        self.sender.close()
        return time.monotonic() - begun, self.finish()


    def windows(self):
        """What every actor holds, of what it may hold."""
        every = [(actor.name, actor.gauges()) for actor in self.actors]
        return " ".join(f"{name}:{gauges.in_flight}/{gauges.window}" if gauges else f"{name}:-" for name, gauges in every)


def judged(chaos, faults, seconds):
    """The summary of a run, and everything that was wrong."""
    journal = verdict.Journal(chaos.journal)
    timeouts = [
        {"kind": "hung", "actor": actor, "at": at + CALL_SECONDS - TICK_SECONDS, "done": at + CALL_SECONDS + LINGER_SECONDS}
        for actor, at in journal.hangs
    ]
    retries = {key: [at + RETRY_SECONDS - TICK_SECONDS for at in moments] for key, moments in journal.retries.items()}
    route = chaos.messages.route
    counts, wrong = verdict.judge(
        chaos.sent(), journal.runs, chaos.kills + timeouts, verdict.read_lines(chaos.received), route, chaos.sender.resent, retries, chaos.sender.doubled
    )
    faults = faults + wrong
    slow = sum(end is not None and end - begin >= plan.SLOW_SECONDS for calls in journal.runs.values() for begin, end in calls)
    struck = {**chaos.striker.kinds, "raised": sum(map(len, retries.values())) - len(timeouts), "slow": slow, "hung": len(timeouts), "sent twice": len(chaos.sender.doubled)}
    faults += [f"no fault of the kind {kind} has struck" for kind, count in struck.items() if not count]
    killed = sum(struck.get(kind, 0) for kind in ("sidecar", "worker", "supervisor", "broker"))
    summary = {
        "transport": chaos.world.transport, "broker": chaos.world.name, "seed": chaos.seed, "actors": len(route),
        "sent": counts["sent"], "kills": killed, "lost": counts["lost"],
        "duplicated": counts["duplicates"], "explained": counts["explained"], "failed": counts["failed"],
        "retried": sum(map(len, retries.values())), "faults": struck, "duplicated_by": counts["duplicates_by_kill"],
        "seconds": round(seconds, 1), "wrong": len(faults),
    }  # fmt: skip
    return summary, faults


def run_on(given, seed, make_world, route):
    """One run; its summary and what was wrong."""
    with contextlib.ExitStack() as ending:
        folder = tempfile.mkdtemp(prefix=PREFIX)
        ending.enter_context(rabbitmq.hold(folder))
        world, small_disk = make_world(folder, ending)
        print(f"{world.name}: seed {seed}, {len(route)} actors, logs and journals in {folder}", flush=True)
        chaos = Chaos(given, seed, world, route, folder, small_disk)
        try:
            seconds, faults = chaos.run()
        finally:
            chaos.write_kills()
        summary, faults = judged(chaos, faults, seconds)
        if not faults and not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            # Not to be swept away by the next run.
            os.rename(folder, folder.replace(PREFIX, "asya-kept-chaos-"))
    return summary, faults


def urls(name):
    return dict(pair.split("=", 1) for pair in os.environ.get(name, "").split())


def worlds_of(transport, given):
    """Functions that make the worlds of a transport: (folder, what ends with it) -> (world, its small disk or None)."""
    if transport == "rabbitmq":
        return [lambda *_, version=version, url=url: (worlds.RabbitMq(version, url), None) for version, url in urls("ASYA_TEST_AMQP_URLS").items()]
    if transport == "sqs":
        return [lambda *_, name=name, url=url: (worlds.Sqs(name, url), None) for name, url in urls("ASYA_TEST_SQS_URLS").items()]

    def embedded(folder, ending):
        small_disk = strikes.SmallDisk(folder)
        ending.callback(small_disk.close)
        world = worlds.Embedded(given.programs, folder, small_disk.store, ["--disk-free-min", str(strikes.DISK_FREE_MIN)])
        ending.callback(world.stop)
        return world, small_disk

    return [embedded]


def with_own_mounts():
    """Begins again in a mount namespace, where the small disk ends with the process; as root in a user namespace where it must be."""
    if "ASYA_CHAOS_INSIDE" in os.environ:
        return
    os.environ["ASYA_CHAOS_INSIDE"] = "1"
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    os.execvp(own[0], [*own, sys.executable, os.path.abspath(__file__), *sys.argv[1:]])


def main():
    given = arguments()
    if "embedded" in given.transports:
        with_own_mounts()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rabbitmq.sweep(PREFIX)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    summaries = []
    for transport, count in zip(given.transports, given.actors):
        makers = worlds_of(transport, given)
        if not makers:
            raise SystemExit(f"there is no broker for {transport}: run tests/chaos/run.sh")
        for make_world in makers:
            summary, faults = run_on(given, seed, make_world, ROUTE[:count])
            summaries.append(summary)
            for fault in faults[:50]:
                print(f"fault: {fault}", flush=True)
    for summary in summaries:
        print(json.dumps(summary), flush=True)
    return int(any(summary["wrong"] for summary in summaries))


if __name__ == "__main__":
    sys.exit(main())
