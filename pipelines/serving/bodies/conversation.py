"""Reads the messages of a chat: texts, images as data: URLs."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipelines.serving.errors import BadRequestError

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
IMAGE_URL = re.compile(r"data:image/[\w.+-]+;base64,")


class Conversation(NamedTuple):
    """messages: with `role` and `content`, a text. images: of the last message."""

    messages: tuple[dict[str, str], ...]
    images: tuple[bytes, ...]

    @property
    def system(self) -> str | None:
        return self.messages[0]["content"] if self.messages[0]["role"] == "system" else None

    @property
    def is_one_prompt(self) -> bool:
        """One user message, after one system message at most."""
        return [m["role"] for m in self.messages] in (["user"], ["system", "user"])


def read_conversation(messages: Any, with_images: bool) -> Conversation:
    """Raises BadRequestError where they are not a conversation that a user's message ends."""
    if not isinstance(messages, list) or not messages or not all(isinstance(m, Mapping) for m in messages):
        raise BadRequestError('give a list of messages, such as [{"role": "user", "content": "hello"}]', "messages")
    read = []
    for i, message in enumerate(messages):
        role = ROLES.get(str(message.get("role")))
        if role is None or (role == "system") > (i == 0):
            raise BadRequestError(
                f"message {i} has the role {message.get('role')!r:.80}; known: user, assistant, and system for the first", "messages"
            )
        text, images = _content(message, with_images)
        if images and i < len(messages) - 1:
            raise BadRequestError(f"message {i} has images; this server takes images in the last message only", "messages")
        read.append({"role": role, "content": text})
    if read[-1]["role"] != "user":
        raise BadRequestError("the last message must be the user's", "messages")
    return Conversation(tuple(read), images)


def read_image(url: Any, param: str) -> bytes:
    """The image of a data: URL."""
    if not isinstance(url, str) or (match := IMAGE_URL.match(url)) is None:
        raise BadRequestError("give images as data: URLs, data:image/png;base64,..; this server downloads nothing", param)
    try:
        return base64.b64decode(url[match.end() :], validate=True)
    except ValueError as error:
        raise BadRequestError(f"an image's data: URL is not base64: {error}", param) from None


def _content(message: Mapping[str, Any], with_images: bool) -> tuple[str, tuple[bytes, ...]]:
    """A message's text and images; several texts are joined by line breaks."""
    content = message.get("content")
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise BadRequestError("a message's content must be a text or a list of parts", "messages")
    texts, images = [], []
    for part in content:
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif part.get("type") == "image_url" and with_images:
            value = part.get("image_url")
            images.append(read_image(value.get("url") if isinstance(value, Mapping) else value, "messages"))
        else:
            known = "text and image_url" if with_images else "text"
            raise BadRequestError(f"this server does not support parts of type {part.get('type')!r:.80}; known: {known}", "messages")
    return "\n".join(texts), tuple(images)
