"""Where the conductor listens: a local socket on one node; TCP with CURVE keys across nodes.

Workers share a pair of keys that is new for every test; connections with any other key are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from configs.errors import RunError
from pipelines.launcher.messages import Address

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator


def listen(router: zmq.Socket[bytes], folder: str) -> Address:
    """Listen on this node alone; the socket's file goes into `folder`."""
    url = f"ipc://{folder}/conductor"
    router.bind(url)
    return Address(url)


def listen_across_nodes(router: zmq.Socket[bytes], host: str, port: int | None) -> tuple[Address, ThreadAuthenticator]:
    """Listen on TCP, with the keys in the Address. The authenticator must be stopped before the socket's context ends.

    host: the name by which other nodes reach this one. port: any free one where None. Raises RunError where it is not available.
    """
    from zmq.auth.thread import ThreadAuthenticator  # here: it imports asyncio, which one node does not need

    conductor_public, conductor_secret = zmq.curve_keypair()
    worker_public, worker_secret = zmq.curve_keypair()
    authenticator = ThreadAuthenticator(router.context)
    authenticator.start()
    authenticator.configure_curve_callback("*", _Only(worker_public))
    router.curve_server = True
    router.curve_publickey, router.curve_secretkey = conductor_public, conductor_secret
    try:
        if port is None:
            port = router.bind_to_random_port("tcp://*")
        else:
            router.bind(f"tcp://*:{port}")
    except zmq.ZMQError as error:
        raise RunError(f"the conductor cannot listen on port {port or '(any)'}: {error}. Choose another by dispatch.port.") from None
    keys = (key.decode() for key in (conductor_public, worker_public, worker_secret))
    return Address(f"tcp://{host}:{port}", *keys), authenticator


class _Only:
    """Accepts one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        """key: in Z85, as zmq.curve_keypair gives it."""
        return key == self._key
