"""Fixtures: the built zipapp, and a sidecar that runs a handler written in the test."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from sidecar import Sidecar, Worker  # noqa: E402


@pytest.fixture(scope="session")
def zipapp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zipapp, built from these sources."""
    target = tmp_path_factory.mktemp("build") / "asya-runtime.pyz"
    subprocess.run([sys.executable, str(HERE.parent / "build.py"), str(target)], check=True, stdout=subprocess.DEVNULL)
    return target


@pytest.fixture
def sidecar(zipapp: Path, tmp_path: Path) -> Iterator[Callable[..., Sidecar]]:
    """Makes a sidecar whose handlers come from the given source."""
    made: List[Sidecar] = []

    def make(source: str = "", handler: str = "handlers.handle", env: Any = None, **options: Any) -> Sidecar:
        for earlier in made:  # its workers would dial the same socket again
            earlier.close()
        (tmp_path / "handlers.py").write_text(textwrap.dedent(source))
        environ = {"ASYA_HANDLER": handler, **(env or {})}
        one = Sidecar(tmp_path, [str(zipapp)], env=environ, **options)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


@pytest.fixture
def worker(sidecar: Callable[..., Sidecar]) -> Callable[..., Worker]:
    """Makes a worker that is ready."""

    def make(source: str, **options: Any) -> Worker:
        one = sidecar(source, **options)
        worker = one.begin()
        worker.sidecar = one  # type: ignore[attr-defined]
        return worker

    return make


@pytest.fixture
def attach_again() -> Callable[[Worker], Worker]:
    """The sidecar goes and another one comes, to which the same worker attaches: gives it as that one sees it."""

    def attach(w: Worker) -> Worker:
        one = w.sidecar
        one.listener.close()
        one.supervisor.close()
        w.close()
        one.listen()
        for peer in (one.accept(), one.accept()):
            hello = peer.receive()
            if hello["type"] == "worker":
                w = Worker(peer, 0, 50, hello["pid"])
        w.attach()
        assert w.peer.receive()["type"] == "ready"
        return w

    return attach
