"""What is broken, and in which order: everything follows from a seed. Pure.

Two draws: the faults of a run, which strike one after the other, round after round, each kind at least once a round; and what the
handlers do with each message, which is written in the message.
"""

import dataclasses
import itertools
import random

# How often a kind strikes in a round.
ROUND = {"sidecar": 4, "worker": 4, "supervisor": 3, "cut": 8, "reorder": 2, "short pause": 1, "long pause": 1, "drain": 1, "broker": 2, "disk": 2}
# What is done to a transport. The servers of SQS's API keep everything in memory, so they are paused and not killed.
KINDS = {
    "rabbitmq": ("sidecar", "worker", "supervisor", "cut", "reorder", "short pause", "long pause", "drain", "broker"),
    "sqs": ("sidecar", "worker", "supervisor", "cut", "reorder", "short pause", "long pause", "drain"),
    "embedded": ("sidecar", "worker", "supervisor", "cut", "reorder", "short pause", "long pause", "drain", "broker", "disk"),
}
# What comes with the messages themselves.
OF_MESSAGES = ("raised", "slow", "hung", "sent twice")
# Seconds between two faults: at first, until each kind has had its turn, and then.
GAP, LATER_GAP = (0.2, 1.2), (1.0, 5.0)
SHORT_PAUSE = (0.5, 3.0)
DISK_FULL = (1.0, 3.0)
# Bytes that pass before a cut: from within a frame's header to a few hundred messages.
CUT_BYTES = (1, 200_000)
# One message in so many raises (once or twice), is slow, hangs once, is sent two times.
RAISES, SLOW, HANGS, TWICE = 40, 200, 4000, 500
SLOW_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens next: after `gap` seconds, `kind` strikes the `actor`-th actor (where it is about one).

    `seconds`: how long it lasts. `up`: towards the broker (a cut), or the sidecar before the runtime (a drain). `bytes`: until a cut.
    """

    kind: str
    gap: float
    actor: int
    seconds: float
    up: bool
    bytes: int


def faults(seed, transport, actors, long_pause):
    """The faults of a run, without an end. `long_pause`: seconds; longer than the broker's clients are patient."""
    draw = random.Random(f"faults {seed} {transport}")
    for gap in itertools.chain([GAP], itertools.repeat(LATER_GAP)):
        kinds = [kind for kind in KINDS[transport] for _ in range(ROUND[kind])]
        draw.shuffle(kinds)
        for kind in kinds:
            seconds = {"short pause": draw.uniform(*SHORT_PAUSE), "long pause": long_pause, "disk": draw.uniform(*DISK_FULL)}
            # Small numbers as often as large ones.
            least, most = CUT_BYTES
            size = int(least * (most / least) ** draw.random())
            yield Fault(kind, draw.uniform(*gap), draw.randrange(actors), seconds.get(kind, 0.0), draw.random() < 0.5, size)


def round_length(transport):
    return sum(ROUND[kind] for kind in KINDS[transport])


def doing(seed, number, route):
    """What the handlers do with a message, {actor: {"raise": times} or {"slow": seconds} or {"hang": 1}}, and whether it is sent twice."""
    draw = random.Random(seed * 1_000_003 + number)
    what = {}
    if draw.randrange(RAISES) == 0:
        what = {draw.choice(route): {"raise": draw.choice((1, 1, 2))}}
    elif draw.randrange(SLOW) == 0:
        what = {draw.choice(route): {"slow": SLOW_SECONDS}}
    elif draw.randrange(HANGS) == 0:
        what = {draw.choice(route): {"hang": 1}}
    return what, draw.randrange(TWICE) == 0
