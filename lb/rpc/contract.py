"""The messages of `internal_chat.proto`, which lies beside this file: made here as `protoc` would make them, so that
nothing generated has to be kept. A test holds the two together."""

from __future__ import annotations

import json
import math
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from lb.protocol.errors import ProxyError

PACKAGE, FILE = "clusterctl.v1", "clusterctl/v1/internal_chat.proto"
SERVICE, METHOD = f"{PACKAGE}.InternalChat", "StreamChat"

#: (name, number, type, whether it may be missing) of each field.
_Field = tuple[str, int, str, bool]
_REQUEST: tuple[_Field, ...] = (
    ("prompt", 1, "STRING", False), ("expert_id", 2, "STRING", True), ("max_tokens", 3, "INT32", True),
    ("temperature", 4, "DOUBLE", True),
)  # fmt: skip
_CHUNK: tuple[_Field, ...] = (("text_delta", 1, "STRING", False), ("finished", 2, "BOOL", False))


def descriptor() -> Any:
    """The `FileDescriptorProto` of the file."""
    file = descriptor_pb2.FileDescriptorProto(name=FILE, package=PACKAGE, syntax="proto3")
    for name, fields in (("StreamChatRequest", _REQUEST), ("StreamChatChunk", _CHUNK)):
        message = file.message_type.add(name=name)
        for field, number, kind, optional in fields:
            kinds = descriptor_pb2.FieldDescriptorProto
            made = message.field.add(
                name=field, number=number, type=kinds.Type.Value(f"TYPE_{kind}"), label=kinds.LABEL_OPTIONAL
            )
            if optional:  # a `oneof` of its own, as protoc writes it
                made.proto3_optional, made.oneof_index = True, len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field}")
    service = file.service.add(name="InternalChat")
    service.method.add(
        name=METHOD, input_type=f".{PACKAGE}.StreamChatRequest", output_type=f".{PACKAGE}.StreamChatChunk",
        server_streaming=True,
    )
    return file


class ChatMessages:
    """Reads requests and writes chunks. ``pool`` has the descriptors, for who asks what there is."""

    def __init__(self) -> None:
        self.pool = descriptor_pool.DescriptorPool()
        self.pool.Add(descriptor())
        self.request, self.chunk = (
            message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
            for name in ("StreamChatRequest", "StreamChatChunk")
        )

    def body(self, data: bytes) -> bytes:
        """The body of `POST /v1/chat/{route}` that asks for the same. Raises ProxyError (400)."""
        try:
            asked = self.request.FromString(data)
        except DecodeError:
            raise ProxyError(400, "the message is no StreamChatRequest") from None
        if not asked.prompt:
            raise ProxyError(400, "a prompt is needed", param="prompt")
        given = {name: getattr(asked, name) for name, _, _, optional in _REQUEST if optional and asked.HasField(name)}
        if given.get("expert_id") == "":
            del given["expert_id"]  # how languages without optional fields say that there is none
        if not math.isfinite(given.get("temperature", 0.0)):
            raise ProxyError(400, "temperature is no number", param="temperature")
        return json.dumps({"prompt": asked.prompt, **given}).encode()

    def write(self, text: str, *, finished: bool) -> bytes:
        made: bytes = self.chunk(text_delta=text, finished=finished).SerializeToString()
        return made
