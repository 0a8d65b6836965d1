"""Server-sent events, by the examples and rules of WHATWG's HTML standard."""

from __future__ import annotations

import pytest

from pipelines.endpoint.event_stream import EventStream, Named


@pytest.mark.parametrize(
    ("content", "events"),
    [
        (b"data: {1}\n\ndata: {2}\n\n", [b"{1}", b"{2}"]),
        (b"\xef\xbb\xbfdata: after a BOM\n\n", [b"after a BOM"]),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [b"first event", b"second event", b" third event"],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [b"", b"\n"]),
        (b"data: bare\rdata: CR\r\rdata: CRLF\r\n\r\n\ndata: mixed\r\n\n", [b"bare\nCR", b"CRLF", b"mixed"]),
        (b"datas: no\n data: no\nDATA: no\n\ndata: not complete", []),
        ("data: \u00e9\u2028x\n\n".encode(), "\u00e9\u2028x".encode().splitlines(keepends=True)),
    ],
)
def test_events_are_the_same_wherever_the_network_splits_them(content: bytes, events: list[bytes]) -> None:
    for at in range(len(content) + 1):
        stream = EventStream()
        assert stream.take(content[:at]) + stream.take(content[at:]) == events, at
    stream = EventStream()
    assert [event for byte in content for event in stream.take(bytes([byte]))] == events


def test_events_of_other_types_can_be_told_apart() -> None:
    events = EventStream().take(b"event: ping\ndata: a\n\ndata: b\n\nevent: message\ndata: c\n\n")
    assert [(event, isinstance(event, Named)) for event in events] == [(b"a", True), (b"b", False), (b"c", False)]
