"""Runs `vllm bench serve` once for each line of arguments on standard input; a line out says that it is done. The first
argument is a file for the prompts it makes up from the others: somebody else can send the same then.

One process for all runs: importing vLLM takes longer than they do. Its own console script looks for a package named
vllm, which its CPU build is not."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path


def main() -> None:
    from vllm.benchmarks.datasets import get_samples
    from vllm.benchmarks.serve import add_cli_args
    from vllm.benchmarks.serve import main as serve
    from vllm.tokenizers import get_tokenizer

    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    print("ready", flush=True)
    for line in sys.stdin:
        file, *arguments = json.loads(line)
        options = parser.parse_args(arguments)
        with contextlib.redirect_stdout(sys.stderr):
            if file:
                options.request_id_prefix = ""
                made = get_samples(options, get_tokenizer(options.model))
                lines = (json.dumps({"prompt": one.prompt, "output_tokens": one.expected_output_len}) for one in made)
                Path(file).write_text("\n".join(lines))
            else:
                serve(options)
        print("done", flush=True)


if __name__ == "__main__":
    main()
