"""Joins what was sent, run, killed and received: nothing without an outcome, no duplicate without a kill. Pure.

A duplicate is explained by (id, hop, time). The second begin of a message at a hop is explained when
  - that actor was hit while the first was there: after it began there, and before the second began; or
  - the actor before it was hit between its run of the message and this begin, so that its result was sent twice; or
  - the actor before it ran the message more than once, which is then explained in its turn; or
  - at the first hop, the sender sent it two times, or sent it again after the end of the broker.
A handler that raises, or that hangs until its time is over, is tried again: the next begin after each of those is no duplicate.
A message may begin after a kill of its actor's connections and still have come before it: from the window, for as long as the
sidecar, whose memory is full, reads nothing from the broken connection (NOTICE_SECONDS at most).
"There" ends at most SETTLE_SECONDS after the handler ended: later, a message that is not settled is a fault of its own.
"""

import collections
import json

SETTLE_SECONDS = 5.0
# A connection that is not read for want of memory is looked at as often as anything else happens: within one handler's run.
NOTICE_SECONDS = 2.0
# What breaks connections and no process.
CONNECTION_KINDS = ("connection", "cut")
# The actor of a kill that hits all of them: of the broker itself.
EVERY = "*"
# Clocks are one and the same, and a kill says from when to when it was done; its victim may be told a moment later.
SLACK_SECONDS = 0.05


class Journal:
    """What handlers have written down: lines that begin with `begin`, then `end` (a result), `fail` (an error) or `hang` (from then
    on the call waits for its time to be over)."""

    def __init__(self, path):
        # {(id, hop): [[begin, end or None], ...]} in the order of begin
        self.runs = collections.defaultdict(list)
        # {(id, hop): [when another try was called for, ...]}
        self.retries = collections.defaultdict(list)
        # [(actor, when)]
        self.hangs = []
        with open(path) as file:
            lines = [line.split() for line in file]
        # Two workers may note the time in one order and write in the other.
        lines.sort(key=lambda line: float(line[4]))
        for line in lines:
            self._take(*line)

    def _take(self, what, identity, hop, actor, at):
        key, at = (identity, int(hop)), float(at)
        if what == "begin":
            self.runs[key].append([at, None])
            return
        if what in ("fail", "hang"):
            self.retries[key].append(at)
        if what == "hang":
            self.hangs.append((actor, at))
        else:
            next(run for run in self.runs[key] if run[1] is None)[1] = at


def without_retries(calls, retries):
    """[(earlier runs, run)] of the runs that are no other try that was called for. Without retries it is the run before that counts."""
    found, due = [], sorted(retries)
    for index, second in enumerate(calls[1:], 1):
        if due and due[0] <= second[0]:
            due.pop(0)
        else:
            found.append((calls[:index] if retries else calls[index - 1 : index], second))
    return found


def read_lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


class Joined:
    """Answers, for one message, which kill brought its duplicates about."""

    def __init__(self, runs, retries, kills, route, resent, doubled):
        self.runs, self.retries, self.doubled = runs, retries, doubled
        self.kills = {actor: [kill for kill in kills if kill["actor"] in (actor, EVERY)] for actor in (*route, EVERY)}
        self.route = route
        self.resent = resent

    def hit(self, hop, since, until):
        """A kill of that hop's actor in that time, or None."""
        actor = self.route[hop] if hop < len(self.route) else EVERY

        def noticed(kill):
            return kill["done"] + (NOTICE_SECONDS if kill["kind"] in CONNECTION_KINDS else SLACK_SECONDS)

        return next((kill for kill in self.kills[actor] if since <= noticed(kill) and kill["at"] <= until + SLACK_SECONDS), None)

    def explain(self, identity, hop, first, second):
        """The kill that explains why a message came to `hop` at `first` and again at `second` (hop = len(route): the sink)."""
        if hop == len(self.route):
            # The reader of the sinks has a connection, too, which only the broker's own end breaks.
            kill = self.hit(hop, first[0], second)
            if kill:
                return kill
        else:
            begin, end = first
            # A run without an end was cut off: by a kill of its worker, its supervisor, or of the worker through the sidecar.
            until = second if end is None else min(second, end + SETTLE_SECONDS)
            kill = self.hit(hop, begin, until)
            if kill:
                return kill
        if hop == 0:
            # So has the sender, who says what it sent again.
            if self.doubled.get(identity, second + 1) <= second + SLACK_SECONDS:
                return {"kind": "sent twice"}
            return self.hit(len(self.route), 0.0, second) if identity in self.resent else None
        before = self.runs.get((identity, hop - 1), [])
        for begin, end in before:
            kill = self.hit(hop - 1, begin, min(second, (end or second) + SETTLE_SECONDS))
            if kill:
                return kill
        for earlier, later in without_retries(before, self.retries.get((identity, hop - 1), [])):
            kill = later[0] <= second and self.explain_any(identity, hop - 1, earlier, later[0])
            if kill:
                return kill
        return None

    def explain_any(self, identity, hop, firsts, second):
        """The same, where any of several earlier runs may have been hit."""
        return next((kill for first in firsts if (kill := self.explain(identity, hop, first, second))), None)


def judge(sent, runs, kills, received, route, resent=frozenset(), retries=None, doubled=None):
    """A dict of counts, and the list of everything that is wrong.

    `resent`: what the sender sent again, unsure of the first. `doubled`: what it sent two times, and when the first was confirmed.
    """
    retries, doubled = retries or {}, doubled or {}
    joined = Joined(runs, retries, kills, route, resent, doubled)
    faults = []
    by_id = collections.defaultdict(list)
    for line in received:
        by_id[line["id"]].append(line)
        if line["wrong"]:
            faults.append(f"{line['id']} arrived with a wrong {line['wrong']}")
    lost = [identity for identity in sent if identity not in by_id]
    faults += [f"{identity} has no outcome; its runs: {trail(runs, identity, route)}" for identity in lost]
    faults += [f"{identity} arrived and was never sent" for identity in by_id if identity not in sent]
    again = collections.Counter()
    explained_by = collections.Counter()

    def duplicate(identity, hop, firsts, second):
        again["at the sinks" if hop == len(route) else f"at hop {hop}"] += 1
        kill = joined.explain_any(identity, hop, firsts, second)
        if kill:
            explained_by[kill["kind"]] += 1
        else:
            faults.append(f"{identity} came twice to hop {hop} and no kill explains it: {firsts} and {second}; {trail(runs, identity, route)}")

    for key, calls in sorted(runs.items()):
        for firsts, second in without_retries(calls, retries.get(key, [])):
            duplicate(*key, firsts, second[0])
    for identity, lines in sorted(by_id.items()):
        arrivals = sorted(line["at"] for line in lines)
        for first, second in zip(arrivals, arrivals[1:]):
            duplicate(identity, len(route), [(first, first)], second)
    failed = [line for line in received if not line["queue"].endswith("-x-sink")]
    for line in failed:
        if line["reason"] != "WorkerCrashed":
            faults.append(f"{line['id']} failed at hop {line['hop']} for {line['reason']} ({line['error']}), which no kill is a reason for")
        hit = any(joined.hit(line["hop"], begin, (end or line["at"]) + SETTLE_SECONDS) for begin, end in runs.get((line["id"], line["hop"]), []))
        if not hit:
            faults.append(f"{line['id']} failed at hop {line['hop']} ({line['reason']}, {line['error']}) and no kill explains it")
    counts = {
        "sent": len(sent),
        "answered": len({line["id"] for line in received if line["queue"].endswith("-x-sink")}),
        "failed": len({line["id"] for line in failed}),
        "lost": len(lost),
        "duplicates": sum(again.values()),
        "explained": sum(explained_by.values()),
        "duplicates_where": dict(sorted(again.items())),
        "duplicates_by_kill": dict(sorted(explained_by.items())),
        "faults": len(faults),
    }
    return counts, faults


def trail(runs, identity, route):
    return {hop: runs.get((identity, hop), []) for hop in range(len(route))}
