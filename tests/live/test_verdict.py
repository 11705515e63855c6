"""The verdict sees what it is there to see: each rule is shown a run that breaks it."""

import verdict

ROUTE = ["a", "b", "c"]


def sink(identity, at, **other):
    return {"queue": "asya-kill-x-sink", "id": identity, "hop": 3, "at": at, "wrong": None, "reason": None, "error": None, **other}


def straight(identity, begin=10.0):
    """A message that passed once, a second a hop."""
    return {(identity, hop): [(begin + hop, begin + hop + 0.5)] for hop in range(3)}


def kill(at, actor, kind="sidecar"):
    return {"at": at, "done": at, "actor": actor, "kind": kind}


def judge(runs, kills, received, sent=("m",)):
    return verdict.judge(set(sent), runs, kills, received, ROUTE)


def test_a_clean_run_has_no_fault():
    counts, faults = judge(straight("m"), [], [sink("m", 13.0)])
    assert (counts["answered"], counts["lost"], counts["duplicates"], faults) == (1, 0, 0, [])


def test_a_message_without_an_outcome_is_lost():
    counts, faults = judge(straight("m"), [kill(11.2, "b")], [])
    assert counts["lost"] == 1 and "no outcome" in faults[0]


def test_a_wrong_payload_and_a_message_never_sent_are_faults():
    _, faults = judge(straight("m"), [], [sink("m", 13.0, wrong="payload"), sink("n", 13.0)])
    assert len(faults) == 2


def test_a_second_run_is_explained_by_a_kill_while_the_first_was_there():
    runs = {**straight("m"), ("m", 1): [(11.0, None), (12.0, 12.5)]}
    counts, faults = judge(runs, [kill(11.2, "b")], [sink("m", 14.0)])
    assert (counts["duplicates"], faults) == (1, [])


def test_a_kill_of_another_actor_or_at_another_time_explains_nothing():
    runs = {**straight("m"), ("m", 1): [(11.0, 11.5), (30.0, 30.5)]}
    for wrong in (kill(11.2, "c"), kill(10.5, "b"), kill(20.0, "b"), kill(31.0, "b")):
        assert len(judge(runs, [wrong], [sink("m", 31.0)])[1]) == 1, wrong
    assert len(judge(runs, [], [sink("m", 31.0)])[1]) == 1


def test_a_broken_connection_explains_what_began_before_it_was_noticed():
    runs = {**straight("m"), ("m", 1): [(11.0, 11.5), (12.0, 12.5)]}
    assert judge(runs, [kill(10.9, "b", "connection")], [sink("m", 14.0)])[1] == []
    assert len(judge(runs, [kill(10.9, "b", "sidecar")], [sink("m", 14.0)])[1]) == 1
    assert len(judge(runs, [kill(8.9, "b", "connection")], [sink("m", 14.0)])[1]) == 1


def test_a_result_sent_twice_by_the_actor_before_is_explained_by_a_hit_on_that_actor():
    runs = {**straight("m"), ("m", 1): [(11.0, 11.5), (11.6, 12.0)]}
    assert judge(runs, [kill(10.6, "a", "connection")], [sink("m", 13.0)])[1] == []


def test_what_ran_twice_at_one_hop_may_come_twice_to_all_that_follow():
    runs = {("m", 0): [(10.0, None), (11.0, 11.5)], ("m", 1): [(12.0, 12.5), (12.1, 12.6)], ("m", 2): [(13.0, 13.5), (13.1, 13.6)]}
    counts, faults = judge(runs, [kill(10.2, "a")], [sink("m", 14.0), sink("m", 14.1)])
    assert (counts["duplicates"], faults) == (4, [])
    assert len(judge(runs, [], [sink("m", 14.0), sink("m", 14.1)])[1]) == 4


def test_a_failure_needs_a_kill_where_it_failed():
    failed = sink("m", 12.0, queue="asya-kill-x-sump", hop=1, reason="WorkerCrashed")
    runs = {("m", 0): [(10.0, 10.5)], ("m", 1): [(11.0, None)]}
    assert judge(runs, [kill(11.3, "b", "worker")], [failed])[1] == []
    assert len(judge(runs, [], [failed])[1]) == 1
    cancelled = {**failed, "reason": "RuntimeError", "error": "asyncio.exceptions.CancelledError"}
    assert len(judge(runs, [kill(11.3, "b", "worker")], [cancelled])[1]) == 1


def test_the_end_of_the_broker_explains_what_was_in_flight_anywhere():
    runs = {**straight("m"), ("m", 1): [(11.0, None), (12.0, 12.5)]}
    assert judge(runs, [kill(11.2, verdict.EVERY, "broker")], [sink("m", 14.0)])[1] == []
    twice = [sink("m", 14.0), sink("m", 15.0)]
    assert judge(straight("m"), [kill(14.5, verdict.EVERY, "broker")], twice)[1] == []
    assert len(judge(straight("m"), [kill(16.0, verdict.EVERY, "broker")], twice)[1]) == 1


def test_what_the_sender_sent_again_may_begin_twice_after_the_end_of_the_broker():
    runs = {**straight("m"), ("m", 0): [(10.0, 10.2), (10.3, 10.5)]}
    broker = [kill(9.0, verdict.EVERY, "broker")]
    assert verdict.judge({"m"}, runs, broker, [sink("m", 13.0)], ROUTE, {"m"})[1] == []
    assert len(verdict.judge({"m"}, runs, broker, [sink("m", 13.0)], ROUTE)[1]) == 1


def test_another_try_that_was_called_for_is_no_duplicate():
    runs = {**straight("m"), ("m", 1): [(11.0, 11.5), (12.0, 12.5)]}
    received = [sink("m", 14.0)]
    assert verdict.judge({"m"}, runs, [], received, ROUTE, retries={("m", 1): [11.5]})[1] == []
    # One error calls for one try, and for none before it.
    assert len(verdict.judge({"m"}, runs, [], received, ROUTE, retries={("m", 1): [12.2]})[1]) == 1
    runs[("m", 1)].append((13.0, 13.5))
    assert len(verdict.judge({"m"}, runs, [], received, ROUTE, retries={("m", 1): [11.5]})[1]) == 1


def test_what_was_sent_two_times_may_begin_twice_and_come_twice_to_all_that_follow():
    runs = {("m", hop): [(10.0 + hop, 10.5 + hop), (10.1 + hop, 10.6 + hop)] for hop in range(3)}
    received = [sink("m", 14.0), sink("m", 14.1)]
    counts, faults = verdict.judge({"m"}, runs, [], received, ROUTE, doubled={"m": 9.9})
    assert (counts["duplicates"], counts["explained"], faults) == (4, 4, [])
    assert len(verdict.judge({"m"}, runs, [], received, ROUTE, doubled={"m": 20.0})[1]) == 4


def test_the_journal_pairs_begins_with_ends(tmp_path):
    path = tmp_path / "runs"
    path.write_text("begin m 0 a 1.0\nbegin m 0 a 2.0\nend m 0 a 2.5\nbegin n 0 a 3.0\nbegin o 0 a 4.0\nfail o 0 a 4.1\nbegin o 0 a 5.0\nhang o 0 a 5.1\n")
    journal = verdict.Journal(path)
    assert journal.runs == {("m", 0): [[1.0, 2.5], [2.0, None]], ("n", 0): [[3.0, None]], ("o", 0): [[4.0, 4.1], [5.0, None]]}
    assert journal.retries == {("o", 0): [4.1, 5.1]} and journal.hangs == [("a", 5.1)]
