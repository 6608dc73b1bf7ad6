from __future__ import annotations

import pytest

from lb.protocol import routes

GENERATION = ["/v1/completions", "/v1/chat/completions", "/v1/chat/completions/batch", "/v1/messages",
              "/v1/messages/count_tokens", "/v1/responses", "/v1/embeddings", "/pooling", "/classify", "/score",
              "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/v1/audio/transcriptions", "/v1/audio/translations",
              "/tokenize", "/detokenize", "/invocations"]  # fmt: skip


@pytest.mark.parametrize("path", GENERATION)
def test_generation_is_post(path: str) -> None:
    assert routes.of(path).methods == {"POST"}


@pytest.mark.parametrize("path", ["/load", "/version", "/v1/realtime"])
def test_reads_are_get(path: str) -> None:
    assert routes.of(path).methods == {"GET", "HEAD"}


def test_ping_takes_both() -> None:
    assert routes.of("/ping").methods == {"GET", "HEAD", "POST"}


def test_a_response_is_read_and_cancelled_by_its_id() -> None:
    assert routes.of("/v1/responses/resp_1").methods == {"GET", "HEAD"}
    assert routes.of("/v1/responses/resp_1/cancel").methods == {"POST"}


@pytest.mark.parametrize("path", ["/", "", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/wake_up",
                                  "/v1/completions/", "//v1/completions", "/v1/../load", "/V1/completions", "/docs",
                                  "/v1/%63ompletions", "/v1/responses/", "/v1/responses/a/b", "/collective_rpc",
                                  "/reset_prefix_cache", "/server_info", "/v1/completions\n", "*"])  # fmt: skip
def test_all_else_reaches_no_worker(path: str) -> None:
    assert not routes.of(path).methods


def test_the_id_in_a_path() -> None:
    assert routes.of("/v1/responses/resp_1").response == "resp_1"
    assert routes.of("/v1/responses/resp_1/cancel").response == "resp_1"
    assert routes.of("/v1/responses").response is None


def test_what_a_worker_keeps_in_memory_is_not_made_again() -> None:
    assert routes.of("/v1/completions").generation
    assert routes.of("/v1/responses").generation, "its body may say otherwise"
    assert not routes.of("/v1/responses/resp_1/cancel").generation
    assert not routes.of("/version").generation


@pytest.mark.parametrize("path", ["/", "/ui", "/ui/", "/ui/app.js"])
def test_the_page_is_for_everybody(path: str) -> None:
    route = routes.of(path)
    assert route.ours and route.open
    assert not routes.of("/uix").ours


def test_the_root_may_be_the_engines() -> None:
    assert not routes.of("/", frozenset({"/"})).ours
