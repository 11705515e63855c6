"""The control socket: one packet is one JSON object, some with file descriptors.

Takes: a path, objects. Gives: objects and descriptors. Blocks on: `receive` blocks unless the socket was polled first.
On failure: an end of file or any socket error is `Gone`; a packet that is not an object is `Corrupt`.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any, Dict, List, Tuple

from .layout import ATTACHED_DESCRIPTORS, MAX_PACKET_BYTES

Packet = Dict[str, Any]


class Gone(Exception):
    """The peer has closed its end, or never was there."""


class Corrupt(Exception):
    """The peer does not keep to docs/RING.md."""


class Connection:
    """One connection to the sidecar."""

    __slots__ = ("_socket",)

    def __init__(self, path: str) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(path)
        except OSError as error:
            connection.close()
            raise Gone(f"{path}: {error.strerror or error}") from error
        self._socket = connection

    def fileno(self) -> int:
        """For polling."""
        return self._socket.fileno()

    def send(self, packet: Packet) -> None:
        """Send one packet."""
        try:
            self._socket.send(json.dumps(packet).encode(), socket.MSG_NOSIGNAL)
        except OSError as error:
            raise Gone(str(error)) from error

    def receive(self) -> Tuple[Packet, List[int]]:
        """Take the next packet, with the descriptors that came along."""
        descriptors = array.array("i")
        space = socket.CMSG_SPACE(ATTACHED_DESCRIPTORS * descriptors.itemsize)
        try:
            body, ancillary, flags, _ = self._socket.recvmsg(MAX_PACKET_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise Gone(str(error)) from error
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        owned = descriptors.tolist()
        if not body:
            raise Gone("end of file")
        try:
            packet = json.loads(body)
        except ValueError:
            packet = None
        if not isinstance(packet, dict) or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            close_all(owned)
            raise Corrupt("packet is not a whole JSON object")
        return packet, owned

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def close_all(descriptors: List[int]) -> None:
    """Close descriptors that nobody wants."""
    for descriptor in descriptors:
        os.close(descriptor)
