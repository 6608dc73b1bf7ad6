"""What the engine is made to sample, by each of vLLM's two interfaces for logits processors, as it calls them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from worker.engines.replay.note import NOTE

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("engine")]
WIDTH = 10
#: What `engine` imports.
ENGINE: Any = SimpleNamespace()


@pytest.fixture(scope="module")
def engine() -> None:
    """Imported by whoever runs these, which takes seconds, and not by whoever collects them."""
    pytest.importorskip("vllm")
    import torch
    from vllm.sampling_params import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

    from worker.engines.replay import processor

    ENGINE.__dict__.update(
        torch=torch, SamplingParams=SamplingParams, BatchUpdate=BatchUpdate, MoveDirectionality=MoveDirectionality,
        LogitsContext=LogitsContext, processor=processor,
    )  # fmt: skip


def _params(note: Any = None) -> Any:
    return ENGINE.SamplingParams(extra_args={NOTE: note} if note is not None else None)


def _first() -> Any:
    return ENGINE.processor.Forced(None, ENGINE.torch.device("cpu"), False)


def _chosen(forced: Any, rows: int, context: Any = None) -> list[int | None]:
    """Of each row the only token that is left; None: all are."""
    logits = forced.apply(ENGINE.torch.zeros(rows, WIDTH), context)
    left = [ENGINE.torch.isfinite(row).nonzero().flatten().tolist() for row in logits]
    assert all(len(some) in (1, WIDTH) for some in left)
    return [some[0] if len(some) == 1 else None for some in left]


def _update(removed: Any = (), added: Any = (), moved: Any = ()) -> Any:
    return ENGINE.BatchUpdate(4, list(removed), [(row, params, [], made) for row, params, made in added], list(moved))


def test_it_is_a_processor_of_both_model_runners() -> None:
    from vllm.v1.sample.logits_processor import LogitsProcessor as First
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as Second

    assert issubclass(ENGINE.processor.Forced, First) and issubclass(ENGINE.processor.Forced, Second)


def test_a_note_is_followed_token_by_token_and_then_all_is_free() -> None:
    forced, made = _first(), list[int]()
    forced.update_state(_update(added=[(0, _params(), []), (1, _params([3, 4]), made)]))
    assert _chosen(forced, 2) == [None, 3]
    made.append(3)
    forced.update_state(None)
    assert _chosen(forced, 2) == [None, 4]
    made.append(-1)  # not known yet, where the engine runs ahead
    assert _chosen(forced, 2) == [None, None]


def test_a_note_goes_where_its_request_goes() -> None:
    forced = _first()
    one_way, swap = ENGINE.MoveDirectionality.UNIDIRECTIONAL, ENGINE.MoveDirectionality.SWAP
    forced.update_state(_update(added=[(0, _params([1]), []), (1, _params([2]), []), (2, _params([3]), [])]))
    forced.update_state(_update(moved=[(0, 1, swap)]))
    assert _chosen(forced, 3) == [2, 1, 3]
    forced.update_state(_update(removed=[0], moved=[(2, 0, one_way)]))
    assert _chosen(forced, 3) == [3, 1, None]
    forced.update_state(_update(added=[(1, _params(), [])]))
    assert _chosen(forced, 2) == [3, None], "another request has come in its place"
    forced.update_state(_update(moved=[(0, 1, swap)]))
    assert _chosen(forced, 2) == [None, 3]


def test_a_token_that_was_ruled_out_is_made_all_the_same() -> None:
    forced = _first()
    forced.update_state(_update(added=[(0, _params([3]), [])]))
    logits = ENGINE.torch.zeros(1, WIDTH)
    logits[0, 3] = float("-inf")
    assert ENGINE.torch.isfinite(forced.apply(logits)).nonzero().tolist() == [[0, 3]]


@pytest.mark.parametrize("note", [[WIDTH], [-1], [], "3", [1.5], [True], [[1]], {"0": 1}, 7, [None]])
def test_what_is_no_note_changes_nothing(note: Any) -> None:
    forced = _first()
    forced.update_state(_update(added=[(0, SimpleNamespace(extra_args={NOTE: note}), [])]))
    assert _chosen(forced, 1) == [None]


def _context(slots: list[int], lengths: list[int], rows: list[tuple[int, int]] | None = None) -> Any:
    """``rows``: slot and position of each, if they are not one a request."""
    import numpy as np

    rows = rows or [(slot, length - 1) for slot, length in zip(slots, lengths, strict=True)]
    nothing = ENGINE.torch.zeros(len(rows), dtype=ENGINE.torch.int32)
    return ENGINE.LogitsContext(
        expanded_idx_mapping=ENGINE.torch.tensor([slot for slot, _ in rows]), idx_mapping=ENGINE.torch.tensor(slots),
        idx_mapping_np=np.array(slots), expanded_local_pos=nothing, input_ids=nothing,
        pos=ENGINE.torch.tensor([at for _, at in rows]), seq_lens_upper_bound_np=np.array(lengths),
    )  # fmt: skip


def test_the_second_model_runner_asks_by_slot_and_position() -> None:
    prompts = SimpleNamespace(np=[0, 5, 0, 7])
    forced = ENGINE.processor.Forced(None, SimpleNamespace(prompt_len=prompts))
    assert forced.add_request(1, _params([3, 4])) and not forced.add_request(3, _params())
    assert _chosen(forced, 2, _context([3, 1], [7, 5])) == [None, 3]
    assert _chosen(forced, 2, _context([1, 3], [6, 8])) == [4, None]
    assert _chosen(forced, 2, _context([1, 3], [7, 9])) == [None, None]
    assert _chosen(forced, 1, _context([1], [3])) == [None], "its prompt is not read yet"
    assert _chosen(forced, 3, _context([1], [7], [(1, 4), (1, 5), (1, 6)])) == [3, 4, None], "rows of drafts"
    assert not forced.add_request(1, _params()), "the next request in the slot"
    assert _chosen(forced, 1, _context([1], [5])) == [None]
