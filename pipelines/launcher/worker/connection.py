"""A rank's connections to the conductor."""

from __future__ import annotations

import zmq

from pipelines.launcher.messages import Address

LINGER_MS = 2000  # how long the end of a process waits for what it sent last


def connect(context: zmq.Context[zmq.Socket[bytes]], address: Address, name: str) -> zmq.Socket[bytes]:
    """name: `worker-RANK`, or `beat-RANK` for its heartbeat."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, name.encode())
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    if address.conductor_key:
        socket.curve_serverkey = address.conductor_key.encode()
        socket.curve_publickey = address.worker_public_key.encode()
        socket.curve_secretkey = address.worker_secret_key.encode()
    socket.connect(address.url)
    return socket
