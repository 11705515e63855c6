"""How each fault of a plan is done to a running pipeline, and written down.

Takes a `plan.Fault`, gives a record (kind, actor, from when to when, whether it struck anything), which the verdict joins with what
came twice. Blocks for as long as the fault lasts; the pipeline is looked after meanwhile. A fault that finds nothing to strike
within FIND_SECONDS says so.
"""

import errno
import os
import subprocess
import sys
import threading
import time

import ends
import verdict

HERE = os.path.dirname(os.path.abspath(__file__))
# How long something in flight is waited for before it is struck all the same, and then does not count.
FIND_SECONDS = 10.0
# A sidecar that has lost its broker again and again tries at least so often.
RECOVER_SECONDS = 40.0
# A sidecar that is asked to drain has ended within this: its grace period and a busy machine.
DRAIN_SECONDS = 90.0
# How long another consumer takes what comes, before it gives that back in reverse order.
HOLD_SECONDS = 0.5
# Of the small disk: the broker's store keeps up to 512 MiB of journals, and then what waits.
DISK_BYTES = 1 << 30
# Below this the broker takes nothing: room for its own journal, which it writes on.
DISK_FREE_MIN = 64 << 20


class Cutter:
    """The proxy in front of one actor's broker."""

    def __init__(self, upstream, where):
        command = [sys.executable, os.path.join(HERE, "cutter.py"), upstream, where]
        self.process = ends.spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.address = self.process.stdout.readline().strip()
        self.cuts = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.cuts.append(float(line.split()[1]))

    def arm(self, up, count):
        self.process.stdin.write(f"cut {'up' if up else 'down'} {count}\n")
        self.process.stdin.flush()


class SmallDisk:
    """A disk of memory for the embedded broker, in this process's own mount namespace: it ends with the process."""

    def __init__(self, folder):
        self.folder = os.path.join(folder, "disk")
        self.filler = os.path.join(self.folder, "filler")
        os.makedirs(self.folder)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "asya-chaos", self.folder], check=True)
        self.store = os.path.join(self.folder, "store")

    def fill(self):
        """To the last byte."""
        with open(self.filler, "wb", buffering=0) as file:
            size, step = 0, DISK_BYTES
            while step >= 4096:  # the broker writes meanwhile, so what is free is found out by trying
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError as full:
                    if full.errno != errno.ENOSPC:
                        raise
                    step //= 2

    def empty(self):
        os.unlink(self.filler)

    def close(self):
        subprocess.run(["umount", "-l", self.folder], check=True)


class Striker:
    """Does faults to one pipeline. `kinds[kind]` counts those that struck."""

    def __init__(self, pipeline, cutters, disk, kinds):
        self.pipeline, self.world = pipeline, pipeline.world
        self.cutters, self.small_disk = cutters, disk
        self.kinds = dict.fromkeys(kinds, 0)

    def strike(self, fault):
        """Waits the gap and until everybody is back from the fault before, then strikes. Gives what was done in words."""
        self.wait(fault.gap)
        self.wait(RECOVER_SECONDS, lambda: all(self.pipeline.is_ready(one) for one in self.pipeline.actors))
        actor = self.pipeline.actors[fault.actor]
        do = getattr(self, fault.kind.replace(" ", "_"), None)
        at = time.monotonic()
        struck = do(actor, fault) if do else self.kill(actor, fault)
        if struck:
            self.kinds[fault.kind] += 1
        return f"{fault.kind}{'' if struck else ' (in vain)'} {actor.name if fault.kind not in EVERYWHERE else ''} {time.monotonic() - at:.1f} s"

    def wait(self, seconds, condition=lambda: False):
        """Looks after the pipeline for so long, or until the condition holds; says whether it does."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if condition():
                return True
            self.pipeline.look()
            time.sleep(0.05)
        return condition()

    def record(self, kind, actor, at):
        self.pipeline.kills.append({"kind": kind, "actor": actor, "at": at, "done": time.monotonic()})
        self.pipeline.moved = time.monotonic()

    def in_flight(self, actor):
        gauges = actor.gauges()
        return gauges is not None and gauges.workers > 0 and gauges.active > 0

    # --- one kind each ---

    def kill(self, actor, fault):
        """SIGKILL of a sidecar, a worker or a supervisor."""
        busy = self.wait(FIND_SECONDS, lambda: self.in_flight(actor))
        at = time.monotonic()
        killed = actor.kill(fault.kind)
        self.record(fault.kind, actor.name, at)
        return busy and killed

    def cut(self, actor, fault):
        cutter = self.cutters[actor.name]
        at, before = time.monotonic(), len(cutter.cuts)
        cutter.arm(fault.up, fault.bytes)
        struck = self.wait(FIND_SECONDS, lambda: len(cutter.cuts) > before)
        self.record("cut", actor.name, cutter.cuts[before] - 0.01 if struck else at)
        return struck

    def reorder(self, actor, fault):
        """Another consumer takes some of the queue and gives it back, the last first."""
        holder = self.world.hold(self.pipeline.queue(actor.name))
        try:
            self.wait(HOLD_SECONDS)
            holder.narrow(0)
            return holder.given_back() > 1
        finally:
            holder.release()

    def short_pause(self, actor, fault):
        """Shorter than anybody's patience: this excuses no duplicate."""
        self.world.pause(True)
        try:
            self.wait(fault.seconds)
        finally:
            self.world.pause(False)
        return True

    def long_pause(self, actor, fault):
        """Longer than a heartbeat or a lease. Where a client's patience is measured in minutes it, too, excuses nothing."""
        at = time.monotonic()
        self.short_pause(actor, fault)
        if self.world.patience:
            self.record(fault.kind, verdict.EVERY, at)
        return True

    def broker(self, actor, fault):
        busy = self.wait(FIND_SECONDS, lambda: any(self.in_flight(one) for one in self.pipeline.actors))
        at = time.monotonic()
        self.world.kill()
        self.record("broker", verdict.EVERY, at)
        return busy

    def disk(self, actor, fault):
        """The disk is full for a while; it strikes when nothing is taken in then."""
        at = time.monotonic()
        self.small_disk.fill()
        try:
            self.wait(0.5)
            sender, before = self.pipeline.sender, self.pipeline.sender.sent
            self.wait(fault.seconds)
            waiting = sender.taken > before or any(self.in_flight(one) for one in self.pipeline.actors)
            struck = sender.sent == before and waiting
        finally:
            self.small_disk.empty()
        self.record("disk", verdict.EVERY, at)
        return struck

    def drain(self, actor, fault):
        """A rolling restart: one actor after the other is asked to end, and started again. It excuses no duplicate, except where the
        broker may lose what was acknowledged last."""
        for one in self.pipeline.actors:
            at = time.monotonic()
            sidecar, runtime = one.let_go()
            for process in (sidecar, runtime) if fault.up else (runtime, sidecar):
                process.terminate()
            ended = self.wait(DRAIN_SECONDS, lambda: sidecar.poll() is not None and runtime.poll() is not None)
            if not ended or sidecar.returncode or runtime.returncode:
                one.unexpected.append(f"the drain of {one.name} ended with {sidecar.poll()} and {runtime.poll()}")
                for process in (sidecar, runtime):
                    process.kill()
                    process.wait()
            if self.world.acknowledges_late:
                self.record("drain", one.name, at)
            one.draining = False
            one.start()
            self.wait(FIND_SECONDS, lambda: self.pipeline.is_ready(one))
        return True


EVERYWHERE = ("short pause", "long pause", "broker", "disk", "drain")
