"""Every form of handler, and every way to name one."""

from __future__ import annotations

import pytest

FORMS = {
    "function": "def handle(payload):\n    return {'got': payload['n']}\n",
    "async": "import asyncio\nasync def handle(payload):\n    await asyncio.sleep(0)\n    return {'got': payload['n']}\n",
    "generator": "def handle(payload):\n    yield {'got': payload['n']}\n    yield {'got': payload['n'] + 1}\n",
    "async_generator": (
        "import asyncio\nasync def handle(payload):\n    yield {'got': payload['n']}\n"
        "    await asyncio.sleep(0)\n    yield {'got': payload['n'] + 1}\n"
    ),
}


@pytest.mark.parametrize("kind", FORMS)
def test_every_form_runs(worker, kind):
    w = worker(FORMS[kind])
    assert w.ready == {"type": "ready", "concurrency": 1, "batch": 0, "kind": kind, "pass": "payload"}
    for n in (1, 5):
        found = w.run({"n": n})
        if "generator" in kind:
            assert [c.document for c in found[:2]] == [{"got": n}, {"got": n + 1}]
            assert (found[2].kind, found[2].last) == (2, True)
            assert not found[0].last and not found[1].last
        else:
            assert [c.document for c in found] == [{"got": n}] and found[0].last


CLASSES = """
    made = []

    class Model:
        def __init__(self, size=3):
            made.append(size)
            self.calls = 0

        def handle(self, payload):
            self.calls += 1
            return {"calls": self.calls, "made": made}

        async def handle_async(self, payload):
            self.calls += 1
            return {"calls": self.calls, "made": made}

        @staticmethod
        def static(payload):
            return {"calls": 0, "made": made}

        @classmethod
        def of_class(cls, payload):
            return {"calls": 0, "made": made}

        class Inner:
            def handle(self, payload):
                return "inner"

    class Callable:
        async def __call__(self, payload):
            return "called"

    class Needs:
        def __init__(self, path):
            pass
        def handle(self, payload):
            pass

    instance = Callable()
"""


@pytest.mark.parametrize("method", ["handle", "handle_async", "static", "of_class"])
def test_a_class_is_constructed_once(worker, method):
    w = worker(CLASSES, handler=f"handlers.Model.{method}")
    calls = [w.one({}).document for _ in range(3)]
    assert [one["made"] for one in calls] == [[3]] * 3
    assert [one["calls"] for one in calls] == ([1, 2, 3] if method.startswith("handle") else [0, 0, 0])


@pytest.mark.parametrize(
    "name, answer",
    [("handlers.Model.Inner.handle", "inner"), ("handlers.Callable", "called"), ("handlers.instance", "called"),
     ("handlers:Model.Inner.handle", "inner"), ("handlers.py:Model.Inner.handle", "inner")],
)  # fmt: skip
def test_other_ways_to_name_a_handler(worker, name, answer):
    assert worker(CLASSES, handler=name).one({}).document == answer


def test_a_file_in_a_folder_imports_its_neighbours(worker, tmp_path):
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "near.py").write_text("value = 7\n")
    (tmp_path / "steps" / "one.py").write_text(
        "import near\nclass Step:\n    def run(self, p):\n        return near.value\n"
    )
    assert worker("", handler="steps/one.py:Step.run").one({}).document == 7


def test_a_file_named_like_a_module_that_is_loaded(worker, tmp_path):
    (tmp_path / "json.py").write_text("def handle(p):\n    return 'mine'\n")
    w = worker("", handler="json.py:handle")
    assert w.one({"a": 1}).document == "mine"


def test_a_package(worker, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "__init__.py").write_text("")
    (tmp_path / "deep" / "er" / "__init__.py").write_text("")
    (tmp_path / "deep" / "er" / "mod.py").write_text("from . import __name__ as n\ndef f(p):\n    return n\n")
    assert worker("", handler="deep.er.mod.f").one({}).document == "deep.er"


BAD = [
    ("", "HandlerError", "ASYA_HANDLER is not set"),
    ("justaname", "HandlerError", "neither module.function"),
    ("handlers.missing", "HandlerError", "module 'handlers' has no 'missing'"),
    ("handlers.hanlde", "HandlerError", "did you mean 'handle'?"),
    ("nowhere.handle", "HandlerError", "there is no module 'nowhere'"),
    ("handlers.py:9x", "HandlerError", "after the colon"),
    ("gone.py:handle", "HandlerError", "there is no file gone.py"),
    ("handlers.Needs.handle", "HandlerError", "need defaults"),
    ("handlers.number", "HandlerError", "cannot be called"),
    ("handlers.two", "HandlerError", "called with one argument"),
    ("handlers.Breaks.handle", "ZeroDivisionError", "division by zero"),
    ("broken.handle", "ModuleNotFoundError", "not_installed_at_all"),
    ("syntax.handle", "SyntaxError", ""),
    ("exits.handle", "SystemExit", "3"),
]


@pytest.mark.parametrize("name, kind, text", BAD)
def test_a_handler_that_does_not_load_is_told(sidecar, tmp_path, name, kind, text):
    (tmp_path / "broken.py").write_text("import not_installed_at_all\ndef handle(p): pass\n")
    (tmp_path / "syntax.py").write_text("def handle(p)\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    one = sidecar(
        """
        number = 3
        def handle(p): pass
        def two(a, b): pass
        class Needs:
            def __init__(self, path): pass
            def handle(self, p): pass
        class Breaks:
            def __init__(self): 1 / 0
            def handle(self, p): pass
        """,
        handler=name,
    )
    one.meet_supervisor()
    one.start_workers()
    failed = one.meet_worker(expect="failed")
    error = failed["error"]
    assert error["type"].rpartition(".")[2] == kind and text in error["message"]
    assert error["mro"][-1:] == ([] if kind == "SystemExit" else ["Exception"])
    assert kind in error["traceback"]
    died = one.supervisor.receive()
    assert (died["type"], died["exit_code"], died["signal"]) == ("died", 1, None)
    assert "[tested] " in one.stderr and kind in one.stderr


def test_settings_that_cannot_be_read_are_told_all_at_once(zipapp, tmp_path):
    import subprocess
    import sys

    found = subprocess.run(
        [sys.executable, str(zipapp)],
        env={"ASYA_CONCURRENCY": "0", "ASYA_BATCH_SIZE": "x", "ASYA_GRACE_PERIOD": "-1", "ASYA_JSON": "simdjson",
             "ASYA_HANDLER_MODE": "envelope"},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert found.returncode == 64
    for name in ("ASYA_CONCURRENCY", "ASYA_BATCH_SIZE", "ASYA_GRACE_PERIOD", "ASYA_JSON", "ASYA_HANDLER_MODE"):
        assert name in found.stderr


def test_the_grace_period_is_written_as_for_the_sidecar():
    from asya._runtime.settings import SettingsError, read

    lengths = {"30s": 30, "1h30m": 5400, "250ms": 0.25, "1.5s": 1.5, "45": 45, "0.5": 0.5, "": 30}
    for text, length in lengths.items():
        assert read({"ASYA_GRACE_PERIOD": text}).grace_seconds == pytest.approx(length), text
    for text in ("soon", "5 s", "5x", "-1s", "s", "nan", "1s2"):
        with pytest.raises(SettingsError, match="ASYA_GRACE_PERIOD"):
            read({"ASYA_GRACE_PERIOD": text})


def test_the_sidecar_may_configure_what_the_environment_does_not(sidecar):
    source = "def handle(p):\n    return 'a'\ndef other(p):\n    return 'b'\n"
    one = sidecar(source, env={"ASYA_HANDLER": ""}, config={"handler": "handlers.other", "concurrency": 4})
    w = one.begin()
    assert w.ready["concurrency"] == 4
    assert w.one({}).document == "b"


def test_the_environment_wins_over_the_sidecar(sidecar):
    source = "def handle(p):\n    return 'a'\ndef other(p):\n    return 'b'\n"
    assert sidecar(source, config={"handler": "handlers.other"}).begin().one({}).document == "a"


def test_attributes_of_a_handler_are_settings(worker):
    source = """
    class Model:
        asya_concurrency = 3
        asya_batch_size = 5
        def handle(self, items):
            return items
    """
    w = worker(source, handler="handlers.Model.handle")
    assert (w.ready["concurrency"], w.ready["batch"]) == (3, 5)
    w = worker(source, handler="handlers.Model.handle", env={"ASYA_CONCURRENCY": "1", "ASYA_BATCH_SIZE": "2"})
    assert (w.ready["concurrency"], w.ready["batch"]) == (1, 2)


def test_asya_can_be_imported_and_nothing_else_is_needed(worker):
    w = worker(
        """
        import sys
        import asya
        loaded = sorted({name.partition(".")[0] for name in sys.modules})
        def handle(p):
            return {"file": asya.__file__, "loaded": loaded}
        """
    )
    answer = w.one({}).document
    assert ".pyz/asya/__init__.py" in answer["file"]
    import sys

    if sys.version_info >= (3, 10):
        outside = set(answer["loaded"]) - set(sys.stdlib_module_names) - {"asya", "handlers", "__main__"}
        # what a Python installation starts by itself (.pth files), and the one library that is used when it is there
        assert {name for name in outside if not name.startswith(("_", "sitecustomize"))} <= {"orjson"}


def test_what_a_handler_prints_passes_through_at_once(worker):
    w = worker("import sys\ndef handle(p):\n    print('to stderr', file=sys.stderr)\n    return 1\n")
    assert w.one({}).document == 1
    assert "to stderr" in w.sidecar.stderr
