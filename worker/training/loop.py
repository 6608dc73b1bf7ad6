"""The loop: batches, steps of AdamW, validation. Where it is follows from the number of steps done, so that it can
go on from any of them with the weights, the optimizer's moments and the random numbers of then, to the same result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from worker.jobs.job import JobFailed
from worker.training.examples import TrainingExample
from worker.training.settings import TrainingSettings

#: Of a target that is not learned, as torch has it.
_IGNORED = -100

#: A gradient longer than this is shortened to it.
_LONGEST_GRADIENT = 1.0

#: Points of a curve that are kept: of more, every other one goes.
_MOST_POINTS = 2000


@dataclass
class TrainingState:
    """``step``: steps of the optimizer done; ``seconds`` they took; ``tokens`` and ``samples`` seen. ``curve``: step,
    loss (mean over the tokens of answers) and learning rate; ``validation``: step and loss."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    samples: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warmup over the share ``warmup`` of ``steps``, then a cosine to 0 after the last one."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


class TrainingLoop:
    """Trains what of ``model`` requires gradients. ``now``: seconds that only rise; ``pad``: the token that short texts
    are filled up with."""

    def __init__(
        self, model: Any, device: str, examples: Sequence[TrainingExample], validation: Sequence[TrainingExample],
        settings: TrainingSettings, pad: int, now: Callable[[], float],
    ) -> None:
        self._model, self._device, self._pad, self._now = model, device, pad, now
        self._examples, self._validation, self._settings = examples, validation, settings
        self._per_step = settings.batch_size * settings.grad_accum
        self.steps_an_epoch = math.ceil(len(examples) / self._per_step)
        self.steps = settings.epochs * self.steps_an_epoch
        self.trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=settings.lr, weight_decay=0.0)
        self._epoch, self._order = -1, list[int]()

    def run(self, state: TrainingState) -> Iterator[None]:
        """From where ``state`` is, which it changes, to the end; yields after each step. Raises JobFailed where the
        loss is no number any more."""
        self._model.train()
        if state.step == 0:
            self._validate(state)
        while state.step < self.steps:
            began = self._now()
            rows = self._rows(state.step)
            rate = learning_rate(state.step, self.steps, self._settings.lr, self._settings.warmup)
            loss = self._update(rows, rate)
            state.step += 1
            state.samples += len(rows)
            state.tokens += sum(len(each.tokens) for each in rows)
            _add(state.curve, (state.step, loss, rate))
            if state.step % self.steps_an_epoch == 0:
                self._validate(state)
            state.seconds += self._now() - began
            yield

    def _rows(self, step: int) -> list[TrainingExample]:
        """In an order that is another in each epoch, and follows from it and the seed."""
        epoch, at = divmod(step, self.steps_an_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self._examples), generator=generator).tolist()
        return [self._examples[each] for each in self._order[at * self._per_step : (at + 1) * self._per_step]]

    def _update(self, rows: Sequence[TrainingExample], rate: float) -> float:
        """One step; the mean loss of the answers' tokens in ``rows``, each of which counts the same."""
        count = sum(each.answer_tokens for each in rows)
        total = 0.0
        for batch in self._batches(rows):
            loss = self._loss(batch) / count
            loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise JobFailed("the loss is no number any more: a lower --lr may help", 400)
        torch.nn.utils.clip_grad_norm_(self.trained.values(), _LONGEST_GRADIENT)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _batches(self, rows: Sequence[TrainingExample]) -> Iterator[Sequence[TrainingExample]]:
        """Those of like length together: less is filled up."""
        ordered, size = sorted(rows, key=lambda each: len(each.tokens)), self._settings.batch_size
        return (ordered[at : at + size] for at in range(0, len(ordered), size))

    def _loss(self, rows: Sequence[TrainingExample]) -> torch.Tensor:
        """The sum over the tokens that are learned."""
        width = max(len(each.tokens) for each in rows)
        tokens = torch.full((len(rows), width), self._pad)
        seen, wanted = torch.zeros_like(tokens), torch.full_like(tokens, _IGNORED)
        for at, each in enumerate(rows):
            length = len(each.tokens)
            tokens[at, :length] = torch.tensor(each.tokens)
            seen[at, :length] = 1
            learned = torch.tensor(list(each.learned), dtype=torch.bool)
            wanted[at, :length][learned] = tokens[at, :length][learned]
        tokens, seen, wanted = (each.to(self._device) for each in (tokens, seen, wanted))
        sixteen = self._device == "cuda" and self._model.dtype == torch.bfloat16
        with torch.autocast(self._device, torch.bfloat16, enabled=sixteen):
            logits = self._model(input_ids=tokens, attention_mask=seen, use_cache=False).logits
        kept = wanted[:, 1:] != _IGNORED
        return functional.cross_entropy(logits[:, :-1][kept].float(), wanted[:, 1:][kept], reduction="sum")

    def _validate(self, state: TrainingState) -> None:
        if not self._validation:
            return
        self._model.eval()
        with torch.no_grad():
            total = sum(float(self._loss(batch)) for batch in self._batches(self._validation))
        self._model.train()
        _add(state.validation, (state.step, total / sum(each.answer_tokens for each in self._validation)))


def _add(points: list[Any], point: Any) -> None:
    points.append(point)
    if len(points) > _MOST_POINTS:
        del points[1:-1:2]
