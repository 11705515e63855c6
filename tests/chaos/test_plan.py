"""The plan is the same for the same seed, has every kind in its first round, and asks every message for at most one thing."""

import itertools
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import plan  # noqa: E402


def first(count, *given):
    return list(itertools.islice(plan.faults(*given), count))


def test_a_seed_decides_everything():
    assert first(100, 7, "rabbitmq", 3, 12.0) == first(100, 7, "rabbitmq", 3, 12.0)
    assert first(100, 7, "rabbitmq", 3, 12.0) != first(100, 8, "rabbitmq", 3, 12.0)
    assert [plan.doing(7, number, ["a", "b"]) for number in range(500)] == [plan.doing(7, number, ["a", "b"]) for number in range(500)]


def test_every_kind_has_its_turn_in_the_first_round():
    for transport, kinds in plan.KINDS.items():
        assert {fault.kind for fault in first(plan.round_length(transport), 3, transport, 2, 12.0)} == set(kinds)


def test_what_strikes_lies_within_what_is_there():
    for fault in first(2000, 11, "embedded", 3, 5.0):
        assert 0 <= fault.actor < 3 and plan.CUT_BYTES[0] <= fault.bytes <= plan.CUT_BYTES[1]
        assert (fault.seconds > 0) == (fault.kind in ("short pause", "long pause", "disk"))


def test_messages_are_asked_for_every_kind_of_thing_and_for_one_at_a_time():
    asked = [plan.doing(5, number, ["a", "b", "c"]) for number in range(100_000)]
    things = [(actor, thing) for what, _ in asked for actor, does in what.items() for thing in does]
    assert {actor for actor, _ in things} == {"a", "b", "c"} and {thing for _, thing in things} == {"raise", "slow", "hang"}
    assert all(len(what) <= 1 for what, _ in asked) and 100 < sum(twice for _, twice in asked) < 300
