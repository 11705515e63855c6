"""Was a killed process killed for memory? The kernel's own counter, where it can be read.

Takes: nothing. Gives: how many processes of this cgroup were killed for memory so far, or None.
Blocks on: nothing. On failure: None.
"""

from __future__ import annotations

from typing import Iterator, Optional


def oom_kills() -> Optional[int]:
    """Kills for memory in this process's cgroup so far (version 2, else version 1)."""
    for path in _files():
        try:
            with open(path, encoding="ascii") as file:
                for line in file:
                    name, _, number = line.partition(" ")
                    if name == "oom_kill":
                        return int(number)
        except (OSError, ValueError):
            continue
    return None


def _files() -> Iterator[str]:
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # In a container the path is often the host's; its own cgroup is then the mount point itself.
        if not controllers:
            yield f"/sys/fs/cgroup{path.rstrip('/')}/memory.events"
            yield "/sys/fs/cgroup/memory.events"
        elif "memory" in controllers.split(","):
            yield f"/sys/fs/cgroup/memory{path.rstrip('/')}/memory.oom_control"
            yield "/sys/fs/cgroup/memory/memory.oom_control"
