"""The proto file, and the messages that are made without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from lb.protocol import routes
from lb.protocol.errors import ProxyError
from lb.rpc import contract
from lb.rpc.contract import ChatMessages

PROTO = Path(contract.__file__).with_name("internal_chat.proto")


def test_the_messages_are_those_of_the_proto_file(tmp_path: Path) -> None:
    written = tmp_path / "clusterctl" / "v1" / PROTO.name
    written.parent.mkdir(parents=True)
    written.write_text(PROTO.read_text())
    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}", f"--descriptor_set_out={out}", str(written)],
        check=True, timeout=60,
    )  # fmt: skip
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    for field in [field for message in file.message_type for field in message.field]:
        field.ClearField("json_name")  # what protoc writes down and every reader works out
    assert file == contract.descriptor()


def test_its_path_is_the_one_that_traces_and_logs_know() -> None:
    assert f"/{contract.SERVICE}/{contract.METHOD}" == routes.RPC_CHAT
    assert not routes.of(routes.RPC_CHAT).methods, "and over HTTP it is nothing"


def test_what_is_asked_is_what_a_route_is_asked() -> None:
    messages = ChatMessages()
    asked = messages.request(prompt="你好", expert_id="a", max_tokens=0, temperature=0.0)
    assert json.loads(messages.body(asked.SerializeToString())) == {
        "prompt": "你好", "expert_id": "a", "max_tokens": 0, "temperature": 0.0
    }  # fmt: skip
    plain = messages.request(prompt="x", expert_id="")
    assert json.loads(messages.body(plain.SerializeToString())) == {"prompt": "x"}
    for wrong in (b"", b"\xff", messages.request(prompt="x", temperature=float("inf")).SerializeToString()):
        with pytest.raises(ProxyError) as refused:
            messages.body(wrong)
        assert refused.value.status == 400
    chunk = messages.chunk.FromString(messages.write("好", finished=True))
    assert (chunk.text_delta, chunk.finished) == ("好", True)


@pytest.mark.processes
def test_nothing_of_it_is_imported_where_it_is_not_spoken() -> None:
    script = "import sys, lb.app, cluster.supervisor.runtime; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
