"""/tokenize and /detokenize, with the fields that vLLM's have."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from pipelines.models.chat_prompts import prompt_ids
from pipelines.serving.bodies.conversation import read_conversation
from pipelines.serving.bodies.fields import check_model, json_body, unknown_fields
from pipelines.serving.errors import BadRequestError
from pipelines.serving.state import WARNINGS, ServerState


class TokenizeRoutes:
    def __init__(self, state: ServerState) -> None:
        self._state = state

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/tokenize", self.tokenize), web.post("/detokenize", self.detokenize)]

    async def tokenize(self, request: web.Request) -> web.Response:
        """Of a prompt as it is, or of messages as the engine gets them."""
        tokenizer, body = self._tokenizer(), await json_body(request)
        request[WARNINGS] = unknown_fields(body, ("model", "prompt", "messages"))
        check_model(body, self._state.model)
        pipeline = self._state.pipeline
        if (prompt := body.get("prompt")) is not None:
            if not isinstance(prompt, str):
                raise BadRequestError("give a prompt, a text", "prompt")
            tokens = await asyncio.to_thread(prompt_ids, tokenizer, prompt, False, None)
        elif not getattr(pipeline, "chat", True):
            raise BadRequestError("this server has no chat template; give a prompt", "messages")
        else:
            messages = read_conversation(body.get("messages"), False).messages
            tokens = await asyncio.to_thread(prompt_ids, tokenizer, messages, True, getattr(pipeline, "system_prompt", None))
        context = getattr(pipeline, "context_length", None)
        return web.json_response({"count": len(tokens), "max_model_len": context, "tokens": tokens})

    async def detokenize(self, request: web.Request) -> web.Response:
        tokenizer, body = self._tokenizer(), await json_body(request)
        request[WARNINGS] = unknown_fields(body, ("model", "tokens"))
        check_model(body, self._state.model)
        tokens = body.get("tokens")
        if not isinstance(tokens, list) or not all(type(t) is int and 0 <= t < len(tokenizer) for t in tokens):
            raise BadRequestError(f"give tokens, a list of whole numbers from 0 to {len(tokenizer) - 1}", "tokens")
        return web.json_response({"prompt": tokenizer.decode(tokens)})

    def _tokenizer(self) -> Any:
        tokenizer = self._state.pipeline.own_tokenizer()
        if tokenizer is None:
            raise BadRequestError("this server's engine has no tokenizer", code="not_supported")
        return tokenizer
