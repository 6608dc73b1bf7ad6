"""vLLM in this process: its asynchronous engine, and the application that a worker would serve, with nobody listening.

The engine computes in a process of its own (EngineCore), which ends with the context. Everything here belongs to the
event loop in which it was started; vLLM is imported when it starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

import httpx

from config.errors import UsageError
from config.settings import inherited_environment
from worker.offline.plan import OfflinePlan
from worker.offline.values import OfflineError, Prompt, RequestRefused, refuse_unknown
from worker.offline.watchdog import ending_with_us

#: How long (s) the engine's process may take to end in order; after that vLLM kills it. Of that its workers have a part
#: of their own: they do not end by themselves there, and vLLM would wait for 5 s before it tells them.
_SHUTDOWN_S = 10
_WORKERS_END = {"VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "1"}


#: Ends of an answer that is none.
_GIVEN_UP = ("abort", "error")


class VllmRuntime:
    """Made by `started`. ``seats``: how many requests are computed at a time."""

    def __init__(self, engine: Any, app: Any) -> None:
        self._engine, self._state = engine, app.state
        self.seats = int(engine.vllm_config.scheduler_config.max_num_seqs)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://offline", timeout=None)

    async def outputs(
        self, prompt: Prompt, sampling: Any, expert: str | None, whole: bool
    ) -> AsyncGenerator[Any, None]:
        """vLLM's ``RequestOutput``: one, if ``whole``, else one for each step with what is new. ``sampling``: fields of
        a request of the API, or vLLM's ``SamplingParams``. Raises RequestRefused, OfflineError."""
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            rendered, params = await self._rendered(prompt, sampling)
            if params.n != 1:
                raise RequestRefused("n is 1 here: for several answers give the prompt several times")
            params.output_kind = RequestOutputKind.FINAL_ONLY if whole else RequestOutputKind.DELTA
            lora = self._state.openai_serving_models.lora_requests[expert] if expert is not None else None
            answer = self._engine.generate(rendered, params, uuid.uuid4().hex, lora_request=lora)
            async with contextlib.aclosing(answer):
                async for output in answer:
                    if output.outputs[0].finish_reason in _GIVEN_UP:
                        raise OfflineError("the engine gave the answer up; its log says why")
                    yield output
        except VLLMClientError as error:
            raise RequestRefused(_sentence(error)) from None
        except (EngineDeadError, EngineGenerateError) as error:
            raise OfflineError(f"the engine ended ({error}); its log says why") from error

    async def _rendered(self, prompt: Prompt, sampling: Any) -> tuple[Any, Any]:
        """What the engine takes: the prompt as tokens, and the parameters as the API would set them."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse
        from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
        from vllm.exceptions import VLLMClientError
        from vllm.renderers.inputs.preprocess import extract_prompt_len

        fields = sampling if isinstance(sampling, Mapping) else {}
        refuse_unknown(fields, (CompletionRequest if isinstance(prompt, str) else ChatCompletionRequest).model_fields)
        try:
            if isinstance(prompt, str):
                serving, request = self._state.openai_serving_completion, CompletionRequest(prompt=prompt, **fields)
                found = await serving.render_completion_request(request)
            else:
                serving, request = self._state.openai_serving_chat, ChatCompletionRequest(messages=prompt, **fields)
                found = await serving.render_chat_request(request)
            if isinstance(found, ErrorResponse):
                raise RequestRefused(found.error.message)
            (rendered,) = found if isinstance(prompt, str) else found[1]
            if sampling is not None and not isinstance(sampling, Mapping):
                return rendered, sampling.clone()
            most = getattr(request, "max_completion_tokens", None) or request.max_tokens
            most = get_max_tokens(
                serving.model_config.max_model_len, most, extract_prompt_len(serving.model_config, rendered),
                serving.default_sampling_params, serving.override_max_tokens,
            )
            return rendered, request.to_sampling_params(most, serving.default_sampling_params)
        except RequestRefused:
            raise
        except (ValueError, TypeError, VLLMClientError) as error:
            raise RequestRefused(_sentence(error)) from None

    async def request(self, path: str, body: bytes) -> tuple[int, bytes]:
        """The status and the body with which a worker would answer a POST."""
        answer = await self._http.post(path, content=body, headers={"Content-Type": "application/json"})
        return answer.status_code, answer.content


@contextlib.asynccontextmanager
async def started(plan: OfflinePlan) -> AsyncIterator[VllmRuntime]:
    """Blocks the loop while the engine starts, for seconds or minutes. Raises UsageError for flags that vLLM does not
    take, OfflineError where it does not start."""
    async with contextlib.AsyncExitStack() as stack:
        marked = stack.enter_context(ending_with_us())
        with _environment({**plan.setup.env, **marked}):
            try:
                runtime = await _start(plan, stack)
            except (RuntimeError, ValueError, OSError) as error:
                raise OfflineError(f"vLLM did not start: {_sentence(error)}") from error
        yield runtime


async def _start(plan: OfflinePlan, stack: contextlib.AsyncExitStack) -> VllmRuntime:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.app import build_app

    args = _parsed(plan)
    engine = await stack.enter_async_context(build_async_engine_client(args))
    tasks = await engine.get_supported_tasks()
    app = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    runtime = VllmRuntime(engine, app)
    stack.push_async_callback(runtime._http.aclose)
    return runtime


def _parsed(plan: OfflinePlan) -> Any:
    """By vLLM's own parser of a server's command line."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class ServerFlags(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> None:
            raise UsageError(f"vLLM's flags: {message}", 2)

    modules = [json.dumps({"name": one.name, "path": one.path}) for one in plan.experts.values()]
    given = ["--model", plan.spec.model, *plan.setup.args]
    args = make_arg_parser(ServerFlags()).parse_args([*given, *(["--lora-modules", *modules] if modules else [])])
    args.middleware = []  # nobody but this program can ask
    args.disable_log_stats = True
    args.shutdown_timeout = args.shutdown_timeout or _SHUTDOWN_S
    validate_parsed_serve_args(args)
    return args


@contextlib.contextmanager
def _environment(engine: Mapping[str, str]) -> Iterator[None]:
    """While the engine's process starts: what it needs, and none of our own settings, of which some are secret."""
    before = dict(os.environ)
    wanted = {**_WORKERS_END, **inherited_environment(), **engine, "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    _become(wanted)
    try:
        yield
    finally:
        _become(before)


def _become(wanted: Mapping[str, str]) -> None:
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def _sentence(error: Exception) -> str:
    """In one line; of several things that are wrong with a field the first."""
    errors = getattr(error, "errors", None)
    if callable(errors) and (found := errors()):
        first = found[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    return " ".join(str(error).split()) or type(error).__name__
