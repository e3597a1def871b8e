"""An engine's name: what stands for which, and what is refused."""

from __future__ import annotations

import pytest

from llmgen.engines import load_engine, server_of
from llmgen.errors import ConfigError, EngineUnavailableError
from tests.engines.serving import free_port


@pytest.mark.parametrize(
    ("text", "url", "model"),
    [
        ("http://localhost", "http://localhost", None),
        ("http://localhost/", "http://localhost", None),
        ("http://localhost:8000", "http://localhost:8000", None),
        ("http://localhost:8000/v1", "http://localhost:8000/v1", None),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1", None),
        ("https://models.example/team/api", "https://models.example/team/api", None),
        ("http://10.0.0.7:8000:Qwen/Qwen3-4B", "http://10.0.0.7:8000", "Qwen/Qwen3-4B"),
        ("http://10.0.0.7:Qwen/Qwen3-4B", "http://10.0.0.7", "Qwen/Qwen3-4B"),
        ("http://localhost:11434/v1:llama3.2:3b-instruct", "http://localhost:11434/v1", "llama3.2:3b-instruct"),
        ("http://localhost:8000:/models/films", "http://localhost:8000", "/models/films"),
        ("http://[::1]:8000", "http://[::1]:8000", None),
        ("http://[2001:db8::1]/v1:a:b/c", "http://[2001:db8::1]/v1", "a:b/c"),
    ],
)
def test_a_server_and_its_model_are_told_apart(text: str, url: str, model: str | None) -> None:
    assert server_of(text) == (url, model)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost:8000",
        "ftp://localhost",
        "http://",
        "http:///v1",
        "http://[::1",
        "http://a b",
        "http://h/v1:",
        "http://h:8:",
    ],
)
def test_what_is_no_server_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="openai:http://localhost:8000") as caught:
        load_engine(f"openai:{text}")
    assert repr(text) in str(caught.value)


def test_a_server_that_is_not_there_is_named() -> None:
    port = free_port()
    with pytest.raises(EngineUnavailableError, match=rf"http://127.0.0.1:{port}/v1/models.*is the server up"):
        load_engine(f"openai:http://127.0.0.1:{port}")
