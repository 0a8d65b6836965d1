"""Server-sent events in a stream of bytes, as the WHATWG's HTML standard has them (section 9.2.6), wherever the network splits it."""

from __future__ import annotations

BOM = b"\xef\xbb\xbf"


class Named(bytes):
    """The data of an event with a type other than `message`, such as a server's pings."""

    __slots__ = ()


class EventStream:
    """Remembers what is not complete. An event that is not complete when the stream ends is none."""

    __slots__ = ("_after_cr", "_begun", "_data", "_rest", "_type")

    def __init__(self) -> None:
        self._begun = self._after_cr = False
        self._rest, self._type = b"", b""
        self._data: list[bytes] = []

    def take(self, content: bytes) -> list[bytes]:
        """The data of every event that is complete now; of several data lines, joined by line feeds."""
        if not self._begun:
            content = self._rest + content
            if len(content) < len(BOM) and BOM.startswith(content):
                self._rest = content
                return []
            content, self._rest, self._begun = content.removeprefix(BOM), b"", True
        if self._after_cr and content:
            content, self._after_cr = content.removeprefix(b"\n"), False
        if b"\r" in content:
            self._after_cr = content.endswith(b"\r")
            content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not self._rest and not self._data and not self._type and content.startswith(b"data: ") and content.endswith(b"\n\n"):
            events = content[6:-2].split(b"\n\ndata: ")
            if content.count(b"\n") == 2 * len(events):  # nothing but events of one line each: 10 times as quick as line by line
                return events
        return self._by_line(content)

    def _by_line(self, content: bytes) -> list[bytes]:
        lines = (self._rest + content).split(b"\n")
        self._rest = lines.pop()
        events: list[bytes] = []
        for line in lines:
            if not line:
                if self._data:
                    data = b"\n".join(self._data)
                    events.append(data if self._type in (b"", b"message") else Named(data))
                self._data, self._type = [], b""
                continue
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif name == b"event":
                self._type = value.removeprefix(b" ")
        return events
