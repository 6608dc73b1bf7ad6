"""Asks a cluster over gRPC, and prints the text as it is made. Ctrl-C cancels the call, and its worker is free.

    pip install grpcio grpcio-tools
    python docs/examples/grpc_chat.py 127.0.0.1:9000 "What is on my bill?" --max-tokens 100

The stubs are made of the proto file when it starts; a program of your own would keep them
(`python -m grpc_tools.protoc -I lb/rpc --python_out=. --grpc_python_out=. internal_chat.proto`).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import grpc

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("prompt")
    parser.add_argument("--expert", help="a model, alias or route; without one the cluster's route chooses")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--ca", type=Path, help="PEM file of the authority, where the cluster speaks TLS")
    given = parser.parse_args()
    sys.path.append(str(ROOT))
    messages, services = grpc.protos_and_services("lb/rpc/internal_chat.proto")
    asked = messages.StreamChatRequest(prompt=given.prompt, expert_id=given.expert, max_tokens=given.max_tokens)
    key = os.environ.get("CLUSTERCTL_API_KEY")
    metadata = [("authorization", f"Bearer {key}")] if key else []
    with _channel(given.target, given.ca) as channel:
        answer = services.InternalChatStub(channel).StreamChat(asked, timeout=given.timeout, metadata=metadata)
        try:
            for chunk in answer:
                print(chunk.text_delta, end="", flush=True)
        except KeyboardInterrupt:
            answer.cancel()
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    print()
    return 0


def _channel(target: str, ca: Path | None) -> grpc.Channel:
    if ca is None:
        return grpc.insecure_channel(target)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(ca.read_bytes()))


if __name__ == "__main__":
    sys.exit(main())
