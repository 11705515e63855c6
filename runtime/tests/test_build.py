"""The zipapp: reproducible, and of the standard library alone."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def build(target, **options):
    subprocess.run([sys.executable, str(ROOT / "build.py"), str(target)], check=True, stdout=subprocess.DEVNULL, **options)
    return target.read_bytes()


def test_the_same_sources_make_the_same_bytes(tmp_path):
    import os

    first = build(tmp_path / "one.pyz")
    second = build(tmp_path / "two.pyz", cwd="/", env={**os.environ, "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1"})
    assert first == second


def test_what_is_in_it(zipapp):
    with zipfile.ZipFile(zipapp) as package:
        names = package.namelist()
        assert "__main__.py" in names and "asya/__init__.py" in names and "asya/py.typed" in names
        assert names == sorted(names) and not [name for name in names if "test" in name or "__pycache__" in name]
    # A ConfigMap holds 1 MiB, base64 takes a third more.
    assert zipapp.stat().st_size < 700_000


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the list of modules is there from Python 3.10 on")
def test_nothing_but_the_standard_library_is_imported():
    optional = {"orjson", "numpy", "torch"}
    for path in (ROOT / "asya").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                assert top in sys.stdlib_module_names | optional | {"asya"}, f"{path}: {name}"


def test_it_runs_in_isolation(zipapp):
    """Without site-packages, environment or user folder."""
    code = (
        f"import sys; sys.path.insert(0, {str(zipapp)!r}); import asya, asya._runtime.worker, asya._runtime.aio, "
        "asya._runtime.threads, asya._runtime.supervisor; print(asya.__version__)"
    )
    found = subprocess.run([sys.executable, "-I", "-S", "-W", "error", "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "") and found.stdout.strip()


@pytest.mark.parametrize(
    "arguments, status, text",
    [(["--help"], 0, "ASYA_HANDLER"), (["--version"], 0, "asya-runtime "), (["nonsense"], 64, "unknown argument 'nonsense'")],
)
def test_arguments(zipapp, arguments, status, text):
    found = subprocess.run([sys.executable, str(zipapp), *arguments], capture_output=True, text=True)
    assert found.returncode == status and text in found.stdout + found.stderr
