#!/usr/bin/env python3
"""A proxy that cuts a connection in the middle of what passes: `cutter.py UPSTREAM tcp|PATH`.

Takes the address of a broker (`host:port` or the path of a Unix socket), listens on a free loopback port or at PATH, and prints
where. Then it takes lines `cut up|down N`: the connection on which the N-th byte from now passes in that direction is broken off right
after that byte, both ends at once, and `cut AT` is printed. Blocks until it is killed.
"""

import select
import socket
import struct
import sys
import threading
import time

CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)


class Cut:
    """The next cut: how many bytes in which direction are left until then."""

    def __init__(self):
        self._lock = threading.Lock()
        self._direction, self._left = None, 0

    def arm(self, direction, left):
        with self._lock:
            self._direction, self._left = direction, left

    def passed(self, direction, count):
        """How many of so many bytes may pass, when the connection is to be cut after them; else None."""
        with self._lock:
            if direction != self._direction:
                return None
            if count < self._left:
                self._left -= count
                return None
            self._direction = None
            return self._left


def listen(where):
    if where == "tcp":
        return socket.create_server(("127.0.0.1", 0), backlog=128)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where)
    listener.listen(128)
    return listener


def connect(upstream):
    if "/" in upstream:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(upstream)
        return connection
    host, _, port = upstream.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def end(connection, at_once):
    try:
        if at_once and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def serve(client, upstream, cut):
    """Passes everything on, both ways, until one end closes or the connection is cut."""
    try:
        server = connect(upstream)
    except OSError:
        client.close()
        return
    with client, server:
        ways = {client: (server, "up"), server: (client, "down")}
        poll = select.poll()
        for one in ways:
            poll.register(one, select.POLLIN)
        by_number = {one.fileno(): one for one in ways}
        cut_off = False
        try:
            while not cut_off:
                for number, _ in poll.poll():
                    source = by_number[number]
                    sink, direction = ways[source]
                    data = source.recv(CHUNK)
                    if not data:
                        return
                    most = cut.passed(direction, len(data))
                    sink.sendall(data if most is None else data[:most])
                    if most is not None:
                        cut_off = True
                        break
        except OSError:
            pass
        finally:
            for one in ways:
                end(one, cut_off)
    if cut_off:
        print(f"cut {time.monotonic():.6f}", flush=True)


def main():
    upstream, where = sys.argv[1:]
    listener, cut = listen(where), Cut()
    print(where if where != "tcp" else "{}:{}".format(*listener.getsockname()), flush=True)

    def orders():
        for line in sys.stdin:
            _, direction, count = line.split()
            cut.arm(direction, int(count))

    threading.Thread(target=orders, daemon=True).start()
    while True:
        client, _ = listener.accept()
        if where == "tcp":
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(client, upstream, cut), daemon=True).start()


if __name__ == "__main__":
    main()
