"""Rebuild the demo model and its adapters: `python -m demo.build [--out DIR]`.

Needs torch, transformers, tokenizers and safetensors, all of which vLLM brings along. All seeds
are fixed and one thread is used, so that two runs on one machine write the same weights.

Longer than a file should be: it is a script that is run once, and imports nothing of what it is a demo for.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from demo import text
from worker.demo import ADAPTERS, model_path

SEED = 7
VOCAB_SIZE = 1536
CONTEXT = 2048  # tokens
BATCH = 32  # examples at most
BATCH_TOKENS = 4096  # with padding, at most
BASE_STEPS = 2000
ADAPTER_STEPS = 800
BASE_RATE = 3e-3
ADAPTER_RATE = 4e-3
LORA_RANK = 8
LORA_ALPHA = 16
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PAD, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

# Content is a string or a list of parts. Roles that the model has never seen count as the user's.
CHAT_TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] in ['system', 'developer'] -%}
{{- '<|system|>\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- '<|assistant|>\\n' -}}
{%- else -%}
{{- '<|user|>\\n' -}}
{%- endif -%}
{%- if message['content'] is string -%}
{{- message['content'] | trim -}}
{%- elif message['content'] -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{{- part['text'] | trim -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>\\n' -}}
{%- endif -%}
"""

# Token ids of one example with, for each, whether the model has to learn to predict it.
Example = tuple[list[int], list[bool]]


def train_tokenizer(corpus: text.Corpus) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which can encode every string."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, BOS, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.all_text(corpus), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


class Encoder:
    """Turns conversations and plain text into examples."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Keep the tokenizer and look up the two tokens that frame a text."""
        self._tokenizer = tokenizer
        self._bos: int = tokenizer.convert_tokens_to_ids(BOS)
        self._end: int = tokenizer.convert_tokens_to_ids(END)

    def _ids(self, part: str) -> list[int]:
        """Return the token ids of a piece of text, with special tokens only where it has them."""
        ids: list[int] = self._tokenizer(part, add_special_tokens=False)["input_ids"]
        return ids

    def chat(self, chat: text.Chat) -> Example:
        """Encode a conversation just as the chat template does; only the answers are learned."""
        ids, learn = [self._bos], [False]
        for role, content in chat:
            head, body = self._ids(f"<|{role}|>\n"), [*self._ids(content), self._end]
            tail = self._ids("\n")
            ids += head + body + tail
            learn += [False] * len(head) + [role == "assistant"] * len(body) + [False] * len(tail)
        return ids, learn

    def plain(self, given: str, learned: str) -> Example:
        """Encode plain text with its end; the second part is learned."""
        head, body = [self._bos, *self._ids(given)], [*self._ids(learned), self._end]
        return head + body, [False] * len(head) + [True] * len(body)


def check_template(tokenizer: PreTrainedTokenizerFast, encoder: Encoder) -> None:
    """Stop if training and serving would disagree about the form of a conversation."""
    chat = [("system", "Be brief."), ("user", "Hi there"), ("assistant", "Hello!")]
    messages = [{"role": role, "content": content} for role, content in chat]
    served = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(served, add_special_tokens=False)["input_ids"]
    if ids != encoder.chat(chat)[0]:
        raise RuntimeError("the chat template and the training text differ")


def collate(examples: Iterable[Example]) -> tuple[Tensor, Tensor]:
    """Pad examples on the right; returns ids and learn mask, both (examples, tokens)."""
    pairs = list(examples)
    ids = torch.zeros(len(pairs), max(len(pair[0]) for pair in pairs), dtype=torch.long)
    learn = torch.zeros_like(ids, dtype=torch.bool)
    for row, (tokens, mask) in enumerate(pairs):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        learn[row, : len(mask)] = torch.tensor(mask)
    return ids, learn


def loss_of(model: LlamaForCausalLM, ids: Tensor, learn: Tensor) -> Tensor:
    """Return the mean cross entropy in nats per learned token.

    Padding stands on the right of a causal model, so no attention mask is needed, and logits are
    computed only where something is learned, which saves a fifth of the time.
    """
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    wanted = learn[:, 1:]
    return functional.cross_entropy(model.lm_head(hidden[wanted]), ids[:, 1:][wanted])


def batches(draw: Callable[[random.Random], Example], rng: random.Random) -> Iterable[list[Example]]:
    """Yield batches for ever, each of examples of about the same length to waste little padding."""
    while True:
        groups: list[list[Example]] = [[]]
        pool = (draw(rng) for _ in range(BATCH * 16))
        for example in sorted(pool, key=lambda pair: len(pair[0])):
            size = len(groups[-1])
            if size == BATCH or (size and (size + 1) * len(example[0]) > BATCH_TOKENS):
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        yield from groups


def train(
    model: LlamaForCausalLM,
    draw: Callable[[random.Random], Example],
    steps: int,
    rate: float,
    name: str,
) -> None:
    """Train the parameters that want a gradient with AdamW, warm-up and a decay to zero."""
    rng = random.Random(f"{SEED} {name}")
    params = [param for param in model.parameters() if param.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    started, total = time.monotonic(), 0.0
    for step, examples in zip(range(1, steps + 1), batches(draw, rng), strict=False):
        factor = min(step / 100, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate * factor
        loss = loss_of(model, *collate(examples))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        total += loss.item()
        if step % 100 == 0:
            seconds = time.monotonic() - started
            print(f"{name} step {step}: loss {total / 100:.3f}, {seconds:.0f} s", flush=True)
            total = 0.0


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained base model."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=32,  # the smallest that vLLM's CPU attention knows
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trained product of two thin matrices."""

    def __init__(self, inner: nn.Linear) -> None:
        """Start at the behaviour of `inner`: A is random (rank, in), B is zero (out, rank)."""
        super().__init__()
        self.inner = inner
        self.lora_A = nn.Parameter(torch.randn(LORA_RANK, inner.in_features) * 0.05)
        self.lora_B = nn.Parameter(torch.zeros(inner.out_features, LORA_RANK))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        low = functional.linear(x, self.lora_A)
        delta = functional.linear(low, self.lora_B) * (LORA_ALPHA / LORA_RANK)
        return self.inner(x) + delta  # type: ignore[no-any-return]


def add_lora(model: LlamaForCausalLM) -> None:
    """Freeze the model and put a LoRA layer around each target."""
    model.requires_grad_(False)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for target in LORA_TARGETS:
                if hasattr(block, target):
                    setattr(block, target, LoraLinear(getattr(block, target)))


def lora_weights(model: LlamaForCausalLM) -> dict[str, Tensor]:
    """Return the adapter in bf16 under the names that PEFT uses."""
    return {
        f"base_model.model.{name}.weight": param.detach().to(torch.bfloat16).contiguous()
        for name, param in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }


def lora_config() -> dict[str, Any]:
    """Return the content of `adapter_config.json`."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "demo",
        "r": LORA_RANK,
        "lora_alpha": LORA_ALPHA,
        "lora_dropout": 0.0,
        "target_modules": list(LORA_TARGETS),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def build_base(out: Path, corpus: text.Corpus) -> None:
    """Train the tokenizer and the base model, and write both to `out`."""
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer(corpus)
    encoder = Encoder(tokenizer)
    check_template(tokenizer, encoder)
    model = new_model(tokenizer)
    print(f"{sum(param.numel() for param in model.parameters()):,} parameters", flush=True)

    def draw(rng: random.Random) -> Example:
        kind = rng.random()
        if kind < 0.56:
            return encoder.chat(text.draw_chat(corpus, "base", rng))
        if kind < 0.60:
            return encoder.chat(text.draw_long_chat(corpus, "base", rng))
        if kind < 0.80:
            return encoder.chat(text.draw_styled_chat(corpus, rng))
        if kind < 0.84:
            return encoder.plain(*text.draw_styled_plain(corpus, rng))
        return encoder.plain(*text.draw_plain(corpus, "base", rng))

    train(model, draw, BASE_STEPS, BASE_RATE, "base")
    # Requests that name no temperature get this one: at 1.0 so small a model slips now and then.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out, save_jinja_files=False)
    (out / "model.safetensors").chmod(0o644)  # it is written as a private file


def build_adapter(name: str, base: Path, out: Path, corpus: text.Corpus) -> None:
    """Train the adapter `name` on top of the written base model, and write it to `out`."""
    torch.manual_seed(SEED)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    encoder = Encoder(PreTrainedTokenizerFast.from_pretrained(base))
    add_lora(model)

    def draw(rng: random.Random) -> Example:
        kind = rng.random()
        if kind < 0.72:
            return encoder.chat(text.draw_chat(corpus, name, rng))
        if kind < 0.78:
            return encoder.chat(text.draw_long_chat(corpus, name, rng))
        return encoder.plain(*text.draw_plain(corpus, name, rng))

    train(model, draw, ADAPTER_STEPS, ADAPTER_RATE, name)
    out.mkdir(parents=True, exist_ok=True)
    weights = out / "adapter_model.safetensors"
    save_file(lora_weights(model), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # it is written as a private file
    config = json.dumps(lora_config(), indent=2) + "\n"
    (out / "adapter_config.json").write_text(config, encoding="utf-8")


def main() -> None:
    """Build everything below `--out`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    here = model_path().parent
    parser.add_argument("--out", type=Path, default=here, help="folder for model/ and adapters/")
    parser.add_argument("--adapters-only", action="store_true", help="keep the base model")
    args = parser.parse_args()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    corpus = text.load()
    if not args.adapters_only:
        build_base(args.out / "model", corpus)
    for name in ADAPTERS:
        build_adapter(name, args.out / "model", args.out / "adapters" / name, corpus)


if __name__ == "__main__":
    main()
