"""What a program with OpenAI's client does against a server of a language model; raises where an answer is not what was asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable

from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI

QUESTION = "a red disc moves left slowly. what does the red object do?"


def main(url: str) -> None:
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    (model,) = [m.id for m in client.models.list()]
    assert client.models.retrieve(model).id == model
    ask = client.chat.completions.create
    user = {"role": "user", "content": QUESTION}
    whole = ask(model=model, messages=[user])
    text = whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"

    stream = [*ask(model=model, messages=[user], stream=True, stream_options={"include_usage": True})]
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == text
    assert stream[-1].usage == whole.usage

    short = ask(model=model, messages=[user], max_completion_tokens=3)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (3, "length")
    word = text.split()[2]
    assert ask(model=model, messages=[user], stop=[word]).choices[0].message.content == text[: text.index(word)]
    several = [[c.message.content for c in ask(model=model, messages=[user], n=3, temperature=2.0, seed=7).choices] for _ in range(2)]
    assert several[0] == several[1]
    assert len(several[0]) == 3
    turns = [{"role": "system", "content": "be brief"}, user, {"role": "assistant", "content": text}, user]
    assert ask(model=model, messages=turns).usage.prompt_tokens > 2 * whole.usage.prompt_tokens
    assert client.completions.create(model=model, prompt=QUESTION, max_tokens=4).usage.completion_tokens == 4
    with_warning = client.chat.completions.with_raw_response.create(model=model, messages=[user], extra_body={"unheard_of": 1})
    assert "unheard_of" in with_warning.headers["Warning"]
    assert refusal(lambda: ask(model=model, messages=[user], logprobs=True), BadRequestError) == "logprobs"
    assert refusal(lambda: ask(model="other", messages=[user]), NotFoundError) == "model"


def refusal(ask: Callable[[], object], kind: type[APIStatusError]) -> str:
    """The field that the server names."""
    try:
        ask()
    except kind as refused:
        return str(refused.param)
    raise AssertionError(f"{kind.__name__} was expected")


if __name__ == "__main__":
    main(sys.argv[1])
