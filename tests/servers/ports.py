"""Free loopback ports for servers that are restarted on them.

Takes a number, gives ports that nobody listens on, below those that the kernel gives to outgoing connections: there a client could
have taken a server's port by the time it comes back, or even have connected to itself. Never blocks.
"""

import contextlib
import random
import socket

_LOWEST = 10_000


def free_ports(count):
    """So many ports; all different because all are held until the last is found."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first_outgoing = int(file.read().split()[0])
    candidates = random.SystemRandom().sample(range(_LOWEST, max(first_outgoing, _LOWEST + 10_000)), 1000)
    with contextlib.ExitStack() as held:
        found = []
        while len(found) < count:
            each = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                port = candidates.pop()
                each.bind(("127.0.0.1", port))
                found.append(port)
        return found
