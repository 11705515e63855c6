"""Drains: a message that is handed back again and again is charged for none of it."""

from conftest import envelope

DRAINS = 30


def test_thirty_drains_of_one_message_leave_its_attempt_at_1(world):
    # A drain has as good as no time, so that each hands back what runs.
    actor = world.actor("attempt", ASYA_GRACE_PERIOD="1s")
    world.publish("a", envelope(["a"], {}))
    for drain in range(DRAINS):
        if drain:
            actor.start()
        actor.wait_for_journal("begin", drain + 1)
        actor.sidecar.terminate()
        assert actor.wait_for_end(actor.sidecar, "the sidecar") == 0
        assert actor.wait_for_end(actor.runtime, "the runtime") == 0
    actor.open_gate()
    actor.start()
    got = world.get("x-sink").envelope
    assert got["payload"] == {"attempt": 1}
    assert [line["payload"] for line in actor.journal("begin")] == [1] * (DRAINS + 1)
    assert world.depth("x-sump") == 0
