"""The study of how items are spelled: its own arithmetic, and one run on a small log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("peft", reason="needs llmgen[train]")

from eval.small_model import new_model
from eval.spelling import ARMS, Found, compared, curve, main, mean_of, parts_of, taken_vectors
from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import leave_items_out
from llmgen.types import Item
from llmgen.workspace.core import DataSettings
from tests.conftest import films
from tests.training.conftest import REAL_RUNS


def test_items_that_the_same_users_took_have_one_direction_and_those_of_nobody_none() -> None:
    """Users 1 and 2 took a and b, users 3 and 4 took c and d, nobody took e: two groups, two directions."""
    catalog = Catalog([Item(name, name) for name in "abcde"])
    rows = [(user, item) for user, items in (("1", "ab"), ("2", "ab"), ("3", "cd"), ("4", "cd")) for item in items]
    made = taken_vectors(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"), catalog, dimensions=2)
    assert made.shape == (5, 2)
    likeness = made @ made.T
    np.testing.assert_allclose(likeness[0, 1], likeness[0, 0], atol=1e-6)
    np.testing.assert_allclose(likeness[:2, 2:], 0, atol=1e-6)
    np.testing.assert_allclose(made[4], 0, atol=1e-6)


def test_a_curve_has_the_tokens_and_examples_up_to_each_validation(tmp_path: Path) -> None:
    history = [{"step": 1, "loss": 3.0}, {"step": 10, "eval_nats": 5.0, "eval_nats_lm": 6.0}]
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    assert curve(tmp_path, 100.4, 8) == [(1004, 80, 6.0, 5.0)]


def test_questions_for_choosing_and_for_asking_are_apart_and_nothing_is_known_of_what_is_right(tmp_path: Path) -> None:
    """Of 12 items a user the last 3 are held out; new ones among them, and the first known one, are what is right."""
    data = made_up_log(tmp_path)
    dataset = DataSettings.parse(data).load()
    left = leave_items_out(dataset.interactions, dataset.catalog.ids, share=0.1)
    warm, new = parts_of(dataset, left, 1000)
    for part in (warm, new):
        for sample in (part.choosing, part.asked):
            ranked = {item.id for item in sample.catalog}
            for query, right in zip(sample.queries, sample.held_out, strict=True):
                assert set(right) <= ranked and not set(right) & {item.id for item in query.history}
    assert {item.id for item in new.asked.catalog} == left.items
    assert not {item.id for item in warm.asked.catalog} & left.items
    assert not set(new.choosing.users) & set(new.asked.users)
    log = dataset.interactions
    for query, right in zip(warm.asked.queries, warm.asked.held_out, strict=True):
        taken = log.filter(pl.col("user_id") == query.user_id).sort("timestamp")["item_id"].to_list()
        assert right == (next(item for item in taken[9:] if item not in left.items),)
    for query, right in zip(warm.choosing.queries, warm.choosing.held_out, strict=True):
        taken = log.filter(pl.col("user_id") == query.user_id).sort("timestamp")["item_id"].to_list()
        assert right == ([item for item in taken[:9] if item not in left.items][-1],)


def test_seeds_are_averaged_user_by_user() -> None:
    one, two = (
        Found(np.array([0.0, alone]), np.array([1.0, 0.5]), np.array([7.0, nats]), weight, 100.0, 3.0)
        for alone, nats, weight in ((1.0, 4.0, 0.1), (0.5, 6.0, 0.3))
    )
    found = mean_of([one, Found.of(json.loads(json.dumps(two.plain())))])
    assert found.alone.tolist() == [0, 0.75] and found.nats.tolist() == [7, 5]
    assert (found.weight, found.prompt_tokens, found.rounds) == (pytest.approx(0.2), 100, 3)


def test_a_table_says_how_far_each_arm_is_from_the_first_one() -> None:
    """Each of 64 users gains .5 or .25 by the second arm; the third one is the first one again."""
    title = np.tile([0.0, 0.5], 32)
    cells = compared({"title": title, "words": title + np.tile([0.5, 0.25], 32), "codes": title.copy()}, "title")
    assert cells["title"].startswith("0.2500 [") and ";" not in cells["title"]
    assert cells["words"].startswith("0.6250 [") and "; +0.3750 [" in cells["words"]
    assert float(cells["words"].split(" p ")[1].split(",")[0]) < 0.001
    assert "; +0.0000 [+0.0000, +0.0000], p 1.0000" in cells["codes"]


def test_a_small_model_has_a_tokenizer_of_its_texts_and_weights_of_its_seed(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompt = "List the products one person chose."
    for seed in (0, 1):
        new_model(["Alien Quest"] * 9, [prompt], tmp_path / str(seed), hidden=32, layers=1, vocabulary=400, seed=seed)
    one, other = (AutoTokenizer.from_pretrained(tmp_path / name) for name in "01")
    assert one.get_vocab() == other.get_vocab()
    assert one.tokenize("Alien Quest") == ["Alien", "ĠQuest"]
    assert len(one.tokenize(prompt)) == 7  # six words and the full stop
    text: str = one.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    weights = [
        AutoModelForCausalLM.from_pretrained(tmp_path / name).get_input_embeddings().weight.detach().numpy()
        for name in "01"
    ]
    assert weights[0].shape == (len(one), 32) and not np.allclose(weights[0], weights[1])


def made_up_log(folder: Path) -> dict[str, str]:
    """100 films, of which some ten are drawn as new, and 120 users who go through them in an order of their own."""
    items = [{"item_id": one.id, "title": one.title} for one in films(100)]
    pl.DataFrame(items).write_csv(folder / "items.csv")
    log = [
        (f"u{user}", 1 + (7 * user + (1 + user % 3) * place) % 100, place) for user in range(120) for place in range(12)
    ]
    pl.DataFrame(log, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(folder / "log.csv")
    return {"items": str(folder / "items.csv"), "interactions": str(folder / "log.csv")}


class TestRuns:
    pytestmark = REAL_RUNS

    def test_every_arm_is_trained_on_as_many_tokens_and_asked_the_same(
        self, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Asked for again, with a second seed and two rates, the first seed is read as it is and the second trained."""
        data, out = json.dumps(made_up_log(tmp_path)), tmp_path / "out"

        def run(arms: str, rates: str, seeds: str) -> dict[str, Any]:
            main(
                out,
                data,
                "new",
                tokens=4000,
                users=10,
                nats_users=8,
                validations=2,
                batch=4,
                rates=rates,
                seeds=seeds,
                history=20,
                hidden=32,
                layers=1,
                encoder=str(tiny_encoder),
                arms=arms,
                plan=False,
            )
            read: dict[str, Any] = json.loads((out / "results.json").read_text())
            return read

        found = run(",".join(ARMS), "1e-3", "0")
        said = capsys.readouterr().out
        assert list(found) == list(ARMS)
        for arm in ARMS:
            told = found[arm]
            (one,) = told["runs"]
            assert one["steps"] * one["tokens_a_step"] == pytest.approx(4000, rel=0.3)
            assert len(one["curve"]) == 2
            for name in ("warm", "new"):
                for value in ("nats", "alone", "beside"):
                    assert len(told[name][value]) == len(found["title"][name][value])
            assert f"| {arm} | " in said
        kept = out / "title" / "run-0" / "found.json"
        written = kept.stat().st_mtime_ns
        both = run("title", "1e-3,1e-2", "0,1")["title"]
        assert both["rate"] == float(min(both["rates"], key=both["rates"].get)) and len(both["rates"]) == 2
        assert kept.stat().st_mtime_ns == written and both["runs"][0] == found["title"]["runs"][0]
        second = json.loads((out / "title" / "run-1" / "found.json").read_text())["answers"]["warm"]["nats"]
        mean = (np.array(found["title"]["warm"]["nats"]) + second) / 2
        np.testing.assert_allclose(both["warm"]["nats"], mean)
        assert second != found["title"]["warm"]["nats"]
