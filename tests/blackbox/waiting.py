"""Waiting for a condition, with a watchdog. Fails loudly; never sleeps in the hope that something has happened."""

import time

# Everything that is waited for takes milliseconds to a few seconds; this is how long a stuck test may hold the suite up.
WATCHDOG_SECONDS = 60.0


def until(condition, what, seconds=WATCHDOG_SECONDS):
    """What the condition gives once it gives something true."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.01)
