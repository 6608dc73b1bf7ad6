"""Servers that answer as the documents of engines say that cannot be installed here: TensorRT-LLM, SGLang, OpenVINO
Model Server. Each computes so many requests at a time, and gives one up when its client leaves."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

_DIST_INFO = "Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
_SAYS = ["The", "capital", "of", "France", "is", "Paris.", "It", "lies", "on", "the", "river", "Seine."]


def install_trtllm(folder: Path) -> dict[str, str]:
    about = folder / "tensorrt_llm-1.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(_DIST_INFO.format(name="tensorrt_llm"))
    (about / "entry_points.txt").write_text("[console_scripts]\ntrtllm-serve = enginestubs:trtllm\n")
    return _path(folder)


def install_sglang(folder: Path) -> dict[str, str]:
    (folder / "sglang").mkdir(exist_ok=True)
    (folder / "sglang" / "__init__.py").write_text("")
    (folder / "sglang" / "launch_server.py").write_text(
        "from enginestubs import sglang\nif __name__ == '__main__':\n    sglang()\n"
    )
    return _path(folder)


def install_openvino(folder: Path) -> dict[str, str]:
    program = folder / "ovms"
    program.write_text(f"#!{sys.executable}\nfrom enginestubs import openvino\nopenvino()\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {**_path(folder), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def _path(folder: Path) -> dict[str, str]:
    shutil.copy(__file__, folder)  # beside it are folders that are called as the packages under test
    return {"PYTHONPATH": str(folder)}


def trtllm() -> None:
    """``trtllm-serve serve MODEL``: any name of a model is accepted, its folder's answers; unknown fields are not."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    given = _parse(parser, "--max_batch_size", "--tp_size")
    known = {"model", "messages", "prompt", "max_tokens", "temperature", "stream", "stream_options", "ignore_eos"}
    _serve(given.host, given.port, _application(given.max_batch_size, Path(given.model).name, known))


def sglang() -> None:
    """``python -m sglang.launch_server``: any name of a model is accepted, and answers; unknown fields are ignored."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--model-path", "--served-model-name"):
        parser.add_argument(flag, required=True)
    for flag in ("--device", "--dtype"):
        parser.add_argument(flag)
    given = _parse(parser, "--max-running-requests", "--tp-size")
    _serve(given.host, given.port, _application(given.max_running_requests, None))


def openvino() -> None:
    """``ovms``: its routes begin with ``/v3``, which ask for API_KEY, and one name is known."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--rest_bind_address", "--rest_port", "--model_name", "--model_path"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--max_num_seqs", type=int, default=256)
    given = parser.parse_args()
    app = _application(
        given.max_num_seqs, None, prefix="/v3", health="/v2/health/ready", only=given.model_name,
        key=os.environ["API_KEY"],
    )  # fmt: skip
    _serve(given.rest_bind_address, int(given.rest_port), app)


def _parse(parser: argparse.ArgumentParser, *numbers: str) -> argparse.Namespace:
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    for flag in numbers:
        parser.add_argument(flag, required=True, type=int)
    return parser.parse_args()


def _serve(host: str, port: int, app: Any) -> None:
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_keep_alive=5)


def _application(
    seats: int, answers_as: str | None, known: Collection[str] | None = None, prefix: str = "/v1",
    health: str = "/health", only: str | None = None, key: str | None = None,
) -> Any:  # fmt: skip
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    places = asyncio.Semaphore(seats)

    def refusal(request: Request, body: dict[str, Any]) -> Response | None:
        if key is not None and request.headers.get("authorization") != f"Bearer {key}":
            return Response(status_code=401)
        if only is not None and body["model"] != only:
            return JSONResponse({"error": "Mediapipe graph definition with requested name is not found"}, 404)
        if unknown := set(body) - set(known or body):
            return JSONResponse({"error": f"Extra inputs are not permitted: {unknown}"}, 400)
        if not isinstance(body.get("messages", []), list) or not 0 <= body.get("temperature", 1) <= 2:
            return JSONResponse({"error": "not valid"}, 400)
        if "messages" not in body and "prompt" not in body:
            return JSONResponse({"error": "field required"}, 400)
        return None

    async def make(body: dict[str, Any]) -> AsyncIterator[tuple[str, bool]]:
        most, endless = body.get("max_tokens", 1000), body.get("ignore_eos")
        words = itertools.cycle(_SAYS) if endless else iter(_SAYS)
        async with places:
            for number, word in zip(range(most), words, strict=False):
                await asyncio.sleep(0.005)
                yield (" " if number else "") + word, number + 1 == most

    async def generate(request: Request, chat: bool) -> Response:
        body = await request.json()
        if (refused := refusal(request, body)) is not None:
            return refused
        name = answers_as or body["model"]

        def choice(text: str, reason: str | None, piece: bool) -> dict[str, Any]:
            said = {"delta" if piece else "message": {"role": "assistant", "content": text}} if chat else {"text": text}
            return {"index": 0, **said, "finish_reason": reason}

        def usage(count: int) -> dict[str, Any]:
            return {"usage": {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": count + 3}}

        if not body.get("stream"):
            return await _unless_gone(request, make(body), lambda words, reason: JSONResponse({
                "id": "x", "model": name, "choices": [choice("".join(words), reason, False)], **usage(len(words)),
            }))  # fmt: skip

        async def events() -> AsyncIterator[str]:
            count, ended = 0, False
            async for text, last in make(body):
                count, ended = count + 1, last
                yield _event({"id": "x", "model": name, "choices": [choice(text, None, True)]})
            reason = "length" if ended else "stop"
            yield _event({"id": "x", "model": name, "choices": [choice("", reason, True)]})
            if (body.get("stream_options") or {}).get("include_usage"):
                yield _event({"id": "x", "model": name, "choices": [], **usage(count)})
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def well(request: Request) -> Response:
        return Response()

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": answers_as or "anything", "object": "model"}]})

    async def chats(request: Request) -> Response:
        return await generate(request, True)

    async def completions(request: Request) -> Response:
        return await generate(request, False)

    return Starlette(routes=[
        Route(health, well), Route(f"{prefix}/models", models),
        Route(f"{prefix}/chat/completions", chats, methods=["POST"]),
        Route(f"{prefix}/completions", completions, methods=["POST"]),
    ])  # fmt: skip


async def _unless_gone(
    request: Any, words: AsyncIterator[tuple[str, bool]], answer: Callable[[list[str], str], Any]
) -> Any:
    made: list[str] = []
    ended = False
    async for text, last in words:
        made.append(text)
        ended = last
        if await request.is_disconnected():
            await words.aclose()  # type: ignore[attr-defined]
            break
    return answer(made, "length" if ended else "stop")


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
