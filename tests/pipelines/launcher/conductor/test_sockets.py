"""Whose connections a conductor accepts that listens across nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import zmq

from configs.errors import RunError
from pipelines.launcher.conductor.sockets import listen_across_nodes
from pipelines.launcher.messages import Address


@pytest.fixture
def heard() -> Iterator[tuple[zmq.Socket[bytes], Address]]:
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    address, guard = listen_across_nodes(router, "127.0.0.1", None)
    yield router, address
    router.close(linger=0)
    guard.stop()
    context.term()


def call(address: Address, server_key: str, public_key: str, secret_key: str) -> zmq.Socket[bytes]:
    """A peer that says hello, with these keys or, where they are empty, with none."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    if server_key:
        socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = (k.encode() for k in (server_key, public_key, secret_key))
    socket.connect(address.url)
    with contextlib.suppress(zmq.Again):  # a handshake that has failed already leaves nobody to send to, and send would wait forever
        socket.send(b"hello", zmq.NOBLOCK)
    return socket


def test_a_worker_with_the_keys_is_heard_and_answered(heard: tuple[zmq.Socket[bytes], Address]) -> None:
    router, address = heard
    peer = call(address, address.conductor_key, address.worker_public_key, address.worker_secret_key)
    assert router.poll(5000)
    name, message = router.recv_multipart()
    assert message == b"hello"
    router.send_multipart([name, b"work"])
    assert peer.poll(5000)
    assert peer.recv() == b"work"
    peer.close()


@pytest.mark.parametrize("knows", ["nothing", "the conductor's key", "another conductor's key"])
def test_a_peer_without_the_keys_gets_nothing(heard: tuple[zmq.Socket[bytes], Address], knows: str) -> None:
    router, address = heard
    own_public, own_secret = (key.decode() for key in zmq.curve_keypair())
    stranger, _ = (key.decode() for key in zmq.curve_keypair())
    server_key = {"nothing": "", "the conductor's key": address.conductor_key, "another conductor's key": stranger}[knows]
    peer = call(address, server_key, own_public, own_secret)
    assert not router.poll(300)  # ms; a hello with the keys takes a few
    assert not peer.poll(0)
    peer.close()


def test_a_port_that_is_taken_is_named(heard: tuple[zmq.Socket[bytes], Address]) -> None:
    _, address = heard
    port = int(address.url.rpartition(":")[2])
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    with pytest.raises(RunError, match=rf"cannot listen on port {port}.*dispatch.port"):
        listen_across_nodes(router, "127.0.0.1", port)
    router.close(linger=0)
