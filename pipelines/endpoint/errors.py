"""Why a query has no answer, in one sentence."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any

import msgspec

from pipelines.endpoint.http_reply import Head

QUOTE_LENGTH = 300  # characters of a server's message that an error quotes
RETRYABLE = (429, 500, 502, 503, 504)


class QueryError(Exception):
    """Why a query has no answer. retryable: another try may succeed."""

    def __init__(self, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class CutError(QueryError):
    """The connection was closed in the middle of an answer."""


def error_text(body: Any) -> str:
    """The message in a server's error, in OpenAI's form or another."""
    error = body.get("error", body.get("detail", body)) if isinstance(body, Mapping) else body
    if isinstance(error, Mapping):
        error = error.get("message", error)
    return " ".join(str(error).split())[:QUOTE_LENGTH]


def status_text(head: Head, content: bytes) -> str:
    """A status and what its body says."""
    text = content.decode(errors="replace")
    try:
        text = error_text(msgspec.json.decode(text))
    except (ValueError, RecursionError):
        text = " ".join(text.split())[:QUOTE_LENGTH]
    return f"status {head.status} {head.reason}".rstrip() + (f": {text}" if text else "")


def check_status(head: Head, content: bytes, url: str) -> None:
    """Raises QueryError unless the status is 2xx."""
    if not 200 <= head.status < 300:
        raise QueryError(f"{url}: {status_text(head, content)}", retryable=head.status in RETRYABLE)


def connect_error(error: Exception, url: str, timeout_s: float) -> QueryError:
    """Why there is no connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        cause = f"certificate verify failed: {error.verify_message}"
        return QueryError(f"{url}: its certificate is not trusted ({cause}); name the authority by tls_verify")
    if isinstance(error, TimeoutError):
        return QueryError(f"{url}: no connection within {timeout_s:g} s (connect_timeout_s)", retryable=True)
    number = error.errno if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
    cause = os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error) or type(error).__name__
    return QueryError(f"{url}: no connection: {cause}", retryable=True)
