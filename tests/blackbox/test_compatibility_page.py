"""docs/COMPATIBILITY.md is whole: every numbered case is in it, and every test that it names exists."""

import os
import re

from stack import REPOSITORY

# The cases of the existing Asya, as they were numbered.
CASES = (
    "1 2 4 5 7 8 10 11 12 13 14 15 17 18 19 21-25 27 28 29 30 31 32 33 34 35 36 38 40 41 42 43 44 45 47 49 50 51 54 55 56 59 61 62 63 65 67 68 "
    "70 72 73 74 76 77 78 80 81 83 85 87 89 92 93 95-100 101-104 107 108 109 110 113-115 118 120-128 129 131 133 136 137 139 140 144 145 146 147"
)


def read(path):
    with open(os.path.join(REPOSITORY, path)) as file:
        return file.read()


def numbers(text, word):
    """The numbers that a list such as `1, 3 to 5` names."""
    found = set()
    for first, last in re.findall(rf"(\d+)(?:{word}(\d+))?", text):
        found.update(range(int(first), int(last or first) + 1))
    return found


def rows():
    """(numbers, state, names of tests) of each row about cases."""
    for line in read("docs/COMPATIBILITY.md").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 4 and cells[0][:1].isdigit():
            yield numbers(cells[0], " to "), cells[1], re.findall(r"`(\w+)`", cells[3])


def test_every_case_is_there_once():
    listed = [number for found, _, _ in rows() for number in found]
    assert len(listed) == len(set(listed)) and set(listed) == numbers(CASES, "-")
    assert {state for _, state, _ in rows()} == {"kept", "changed", "dropped", "later"}


def test_every_test_that_is_named_exists():
    sources = "".join(read(f"tests/blackbox/{name}") for name in ("test_retries.py", "test_routing.py", "test_rabbitmq.py", "test_sqs.py"))
    sources += read("dataplane/src/retry/tests.rs") + read("dataplane/src/pipeline/tests/time.rs")
    sources += read("runtime/tests/test_cases.py") + read("dataplane/src/config/tests.rs") + read("dataplane/src/admin/tests.rs")
    defined = set(re.findall(r"^(?:def|fn) (\w+)\(", sources, re.M))
    for found, state, tests in rows():
        assert set(tests) <= defined, (found, set(tests) - defined)
        if state in ("kept", "changed"):
            for number in found:
                assert any(f"case_{number:02}_" in test for test in tests), (number, tests)
