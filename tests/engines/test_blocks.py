"""Keys and values of several prompts in one block: what a pass is given, what it sees, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[hf]")

from llmgen.engines import Step
from llmgen.engines.blocks import Block, Past, Row, growth, inputs
from llmgen.engines.hf import HFEngine


def block_of(lengths: tuple[int, ...]) -> tuple[Block, list[Row]]:
    """Prompts of some lengths, read; one layer whose keys and values say where they stand: row, then column."""
    block = Block(len(lengths), max(lengths))
    where = torch.stack(
        torch.meshgrid(torch.arange(len(lengths)), torch.arange(max(lengths)), indexing="ij"), dim=-1
    ).float()
    Past(block, slice(0, len(lengths)), 0).extend(0, where[:, None], -where[:, None])
    block.write_hidden(slice(0, len(lengths)), 0, where)
    return block, [Row(block, number, length) for number, length in enumerate(lengths)]


def test_new_nodes_of_all_prompts_stand_in_the_same_columns() -> None:
    _, (long, short) = block_of((3, 2))
    first = growth(long, [(7,), (7, 8), (9,)])
    assert first.tokens == [7, 8, 9]
    assert first.nodes == {(7,): (3,), (7, 8): (3, 4), (9,): (5,)}
    assert growth(short, [(5, 6)]).nodes == {(5,): (3,), (5, 6): (3, 4)}
    long.nodes.update(first.nodes)
    long.block.used = 6
    assert growth(long, [(7,), (7, 8, 1), ()]) == ([1], {(7, 8, 1): (3, 4, 6)})
    assert [long.column(path) for path in ((), (7,), (9,))] == [2, 3, 5]
    assert long.size == 3 + 3


def test_a_token_sees_its_prompt_and_what_is_above_it() -> None:
    block, (long, short) = block_of((3, 2))
    made = inputs(block, [short, long], [growth(short, [(5, 6)]), growth(long, [(7,), (7, 8), (9,)])])
    assert made.ids.tolist() == [[7, 8, 9], [5, 6, 0]]
    assert made.positions.tolist() == [[3, 4, 3], [2, 3, 0]]
    assert made.seen[0].astype(int).tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 1]]
    assert made.seen[1, :2].astype(int).tolist() == [[1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 1, 0]]
    assert made.seen.any(axis=2).all()  # a token that sees nothing is no number


def test_rows_nobody_asks_about_see_something() -> None:
    block, (_, short) = block_of((3, 2))
    made = inputs(block, [short], [growth(short, [(5,)])])
    assert made.ids.tolist() == [[0], [5]]
    assert made.seen.astype(int).tolist() == [[[1, 0, 0, 0]], [[1, 1, 0, 1]]]


def test_rows_are_taken_over_with_all_their_columns() -> None:
    block, _ = block_of((3, 2))
    block.widen(5)
    assert block.columns >= 5
    assert block.used == 3
    new = Block(2, 4)
    new.copy(block, torch.tensor([1]), torch.tensor([0]), 3)
    new.copy(block, torch.tensor([0]), torch.tensor([1]), 2)
    keys, values = new.layers[0]
    assert keys[1, 0, :3].tolist() == [[0, 0], [0, 1], [0, 2]]
    assert keys[0, 0, :3].tolist() == [[1, 0], [1, 1], [0, 0]]
    assert torch.equal(values, -keys)
    assert torch.equal(new.hidden, keys[:, 0])
    assert new.used == 3


def test_what_a_pass_puts_behind_the_columns_before_is_given_back_with_them() -> None:
    block, _ = block_of((3, 2))
    block.widen(4)
    added = torch.full((1, 1, 1, 2), 9.0)
    keys, values = Past(block, slice(1, 2), 3).extend(0, added, 2 * added)
    assert keys[0, 0].tolist() == [[1, 0], [1, 1], [1, 2], [9, 9]]
    assert values[0, 0, 3].tolist() == [18, 18]
    known = Past(block, slice(0, 2), 3).known()
    assert known is not None
    assert known[0][0].shape == (2, 1, 3, 2)
    assert Past(block, slice(0, 2), 0).known() is None


def test_any_company_in_any_order_gives_the_same_answers(tiny_model: Path) -> None:
    """Prompts that come and go are read, moved to other blocks and dropped, and are answered as by a fresh engine."""
    engine = HFEngine.load(str(tiny_model), batch_tokens=400)
    rng = np.random.default_rng(0)
    wanted = np.arange(50)
    prompts = [tuple(rng.integers(3, 400, size=length).tolist()) for length in (20, 9, 30, 31, 12, 25)]
    blocks = set()
    for _ in range(25):
        chosen = rng.choice(len(prompts), size=int(rng.integers(1, 7)), replace=False)
        steps = []
        for number in chosen.tolist():
            for _ in range(int(rng.integers(1, 4))):
                suffix = tuple(rng.integers(3, 6, size=int(rng.integers(0, 4))).tolist())
                steps.append(Step(prompts[number], suffix, wanted, full=bool(rng.integers(2))))
        for step, found in zip(steps, engine.next_logprobs(steps), strict=True):
            with torch.inference_mode():
                logits = engine.model(input_ids=torch.tensor([step.prompt + step.suffix])).logits[0, -1].double()
            expected = logits.log_softmax(-1)[:50].numpy()
            apart = found - expected
            assert np.allclose(apart if step.full else apart - apart.mean(), 0, atol=1e-4)
        blocks.add(len({id(row.block) for row in engine._kept.values()}))
    assert max(blocks) > 1  # they were not always together
