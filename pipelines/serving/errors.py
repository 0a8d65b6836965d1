"""Errors for clients, in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

KINDS = {401: "authentication_error", 404: "not_found_error", 408: "timeout_error", 500: "server_error", 503: "server_error"}


class BadRequestError(Exception):
    """status: of HTTP. param: the field of the request that is wrong."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": printable(str(self)), "type": kind, "param": self.param, "code": self.code}}


def printable(text: str) -> str:
    """Without lone surrogates, which UTF-8 cannot hold."""
    return text.encode(errors="backslashreplace").decode()
