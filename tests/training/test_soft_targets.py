"""Soft targets: who gets how much, and that the loss is the expected one, read in one pass or item by item."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[train]")

from transformers import LlamaConfig, LlamaForCausalLM

from llmgen.catalog.core import Catalog
from llmgen.engines.hf import HFEngine
from llmgen.errors import ConfigError
from llmgen.priors import ExcludeSeen, Prior
from llmgen.recommend.recommender import Recommender
from llmgen.training.answers import losses
from llmgen.training.batches import Planner
from llmgen.training.branches import Branch, check_branches, laid
from llmgen.training.data import Example, Target
from llmgen.training.loss import ItemPaths
from llmgen.training.recipe import Recipe
from llmgen.training.soft_targets import SoftTargets, SoftTargetSettings
from llmgen.types import FloatArray, Item, Query

TITLES = ("Alien", "Aliens", "Alien Nation", "Blue Velvet", "Blue Monday", "Heat")


class Fixed(ExcludeSeen):
    """A prior with weights that a test gives, which removes what was seen."""

    weights: FloatArray

    def log_weights(self, queries):  # type: ignore[no-untyped-def]
        return super().log_weights(queries) + np.log(self.weights)


def fixed(catalog: Catalog, *weights: float) -> Prior:
    prior = Fixed(catalog)
    object.__setattr__(prior, "weights", np.array(weights))
    return prior


@pytest.fixture
def small() -> Catalog:
    return Catalog([Item(str(number), title) for number, title in enumerate(TITLES)])


def target(catalog: Catalog, item: int, *seen: int) -> Target:
    return Target(3, 5, item, Query(tuple(catalog[one] for one in seen), user_id="u"))


class TestWhoGetsHowMuch:
    def test_the_rarer_a_target_the_more_it_gives_away(self, small: Catalog) -> None:
        """share .4, rare 20: .4 of an item that nobody took, .2 of one taken 20 times, .1 of one taken 60 times."""
        soft = SoftTargets(
            SoftTargetSettings("priors", share=0.4, rare=20, neighbours=2), small, np.array([0, 20, 60, 0, 0, 0])
        )
        assert soft.shares[:3].tolist() == pytest.approx([0.4, 0.2, 0.1])

    def test_what_the_prior_finds_likeliest_shares_as_its_weights_are(self, small: Catalog) -> None:
        """Beside item 0 the likeliest are 3 (weight 6) and 5 (weight 2); 4 has more and was taken before."""
        settings = SoftTargetSettings("priors", share=0.4, rare=1, neighbours=2)
        soft = SoftTargets(settings, small, np.zeros(6, np.int64), {0: [fixed(small, 3, 1, 1, 6, 9, 2)]})
        (found,) = soft.others(Example("next", (), (), 0), [target(small, 0, 4)])
        assert [item for item, _ in found] == [3, 5]
        assert [mass for _, mass in found] == pytest.approx([0.4 * 6 / 8, 0.4 * 2 / 8])

    def test_text_neighbours_share_a_word_and_were_not_taken(self, small: Catalog) -> None:
        """Alien and Alien Nation share a word, the two blue ones another; Heat is like nothing, and stays whole."""
        soft = SoftTargets(SoftTargetSettings("text", share=0.5, rare=1), small, np.zeros(6, np.int64))
        example = Example("list", (), (), 0)
        wanted = [target(small, 0), target(small, 3), target(small, 5), target(small, 3, 4)]
        found = soft.others(example, wanted)
        assert [[item for item, _ in row] for row in found] == [[2], [4], [], []]
        assert [mass for row in found for _, mass in row] == pytest.approx([0.5, 0.5])

    def test_only_tasks_that_ask_what_was_taken_next_have_other_answers(self, small: Catalog) -> None:
        soft = SoftTargets(SoftTargetSettings("text"), small, np.zeros(6, np.int64))
        for task, count in (("list", 1), ("next", 1), ("rank", 0), ("wish", 0), ("describe", 0)):
            (found,) = soft.others(Example(task, (), (), 0), [target(small, 0)])
            assert len(found) == count


class TestBranches:
    def test_a_branch_sees_the_text_before_it_and_itself(self) -> None:
        ids, starts, seen = laid([[1, 2, 3], [4, 5]], [Branch(0, 1, (8, 9)), Branch(0, 2, (7,))], 0)
        assert ids.tolist() == [[1, 2, 3, 8, 9, 7], [4, 5, 0, 0, 0, 0]]
        assert starts.tolist() == [3, 5]
        assert seen.positions[0].tolist() == [0, 1, 2, 1, 2, 2]
        visible = [np.flatnonzero(row).tolist() for row in seen.mask(torch.device("cpu"))[0, 0].numpy()]
        assert visible == [[0], [0, 1], [0, 1, 2], [0, 3], [0, 3, 4], [0, 1, 5]]

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_a_model_that_cannot_read_them_is_refused(self, attention: str) -> None:
        """The eager attention of transformers adds a mask to the logits, and so does not hide what it should."""
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, initializer_range=0.5, attn_implementation=attention, eos_token_id=1, bos_token_id=1,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        if attention == "sdpa":
            check_branches(model)
        else:
            with pytest.raises(ConfigError, match=r"soft_targets need .*LlamaForCausalLM does not"):
                check_branches(model)


@pytest.fixture(scope="module")
def recommender(tiny_model, catalog):  # type: ignore[no-untyped-def]
    return Recommender(catalog.like(list(catalog)[:30]), HFEngine.load(str(tiny_model)))


def examples_of(recommender: Recommender) -> list[Example]:
    """Two lists of three and four films and a film behind two, from the templates that serve."""
    from llmgen.datasets.splits import History
    from llmgen.training.data import Mixture, TrainingTask

    catalog = recommender.catalog
    histories = {
        f"u{user}": History(tuple(catalog[(3 * user + 2 * place) % len(catalog)] for place in range(4)), None)
        for user in range(6)
    }
    tasks = {
        "list": TrainingTask(("next_item_list",), max_history=4),
        "next": TrainingTask(("next_item",), max_history=3),
    }
    mixture = Mixture(recommender, histories, tasks, folds=2, group=1)
    drawn = [mixture[number] for number in range(20)]
    lists, nexts = ([one for one in drawn if one.task == task] for task in ("list", "next"))
    return [lists[0], nexts[0], lists[1]]


def answered(recommender: Recommender, example: Example, target: Target, item: int) -> Example:
    """The example cut off at a target, with another item in its place."""
    engine = recommender.engine
    assert engine is not None
    title = recommender.catalog.spelling(recommender.catalog[item])
    (path,) = engine.spell([title])
    assert engine.spell([recommender.catalog.spelling(recommender.catalog[target.item])])[0][:-1] == tuple(
        example.input_ids[target.start : target.end - 1]
    )
    ids = (*example.input_ids[: target.start], *path[:-1], example.input_ids[target.end - 1])
    return replace(example, input_ids=ids, targets=(target._replace(end=len(ids), item=item),))


@pytest.mark.parametrize("loss", ["catalog", "residual"])
@pytest.mark.parametrize("source", ["text", "priors"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_loss_is_the_sum_over_the_items(recommender, loss, source, temperature) -> None:  # type: ignore[no-untyped-def]
    """The expected loss of every target, from one pass with branches, is what the items cost each in a text of its own.

    The reference asks the model for each item of the distribution in a plain example, without soft targets.
    """
    catalog = recommender.catalog
    rng = np.random.default_rng(0)
    prior = fixed(catalog, *rng.uniform(0.5, 5, len(catalog)))
    priors = {fold: [prior] for fold in (-1, 0, 1)}
    settings = SoftTargetSettings(source, share=0.6, rare=5, neighbours=4)
    soft = SoftTargets(settings, catalog, rng.integers(0, 20, len(catalog)), priors)
    paths, lines = ItemPaths(recommender.trie), ItemPaths.of_lines(recommender.parts.index)
    made = {
        name: Planner(paths, loss, lines=lines, priors=priors, temperature=temperature, soft=one)
        for name, one in (("soft", soft), ("plain", None))
    }
    examples = examples_of(recommender)
    informed = [True, False, True]
    batch = made["soft"].batch(examples, informed)
    model = recommender.engine.model
    with torch.no_grad():
        (found,) = losses(model, batch["input_ids"], [(batch["plan"], 0.4)])
        expected, branched = [], 0
        for example, speaks in zip(examples, informed, strict=True):
            for one, others in zip(example.targets, soft.others(example, example.targets), strict=True):
                whole = [(one.item, 1 - sum(mass for _, mass in others)), *others]
                branched += len(others)
                nats = 0.0
                for item, mass in whole:
                    plain = made["plain"].batch([answered(recommender, example, one, item)], [speaks])
                    (alone,) = losses(model, plain["input_ids"], [(plain["plan"], 0.4)])
                    nats += mass * float(alone.items[0])
                expected.append(nats)
    assert branched > len(expected)
    assert batch["plan"].branches is not None
    assert found.items.tolist() == pytest.approx(expected, rel=2e-4)
    assert batch["plan"].num_tokens == int((batch["input_ids"] != 0).sum())  # 0 fills up


def test_settings_that_cannot_be_are_told() -> None:
    def told(**settings: object) -> str:
        with pytest.raises(ConfigError) as error:
            Recipe.parse(
                **{name: one if isinstance(one, str | float) else json.dumps(one) for name, one in settings.items()}
            )
        return str(error.value)

    assert "share" in told(soft_targets={"source": "text", "share": 1.0})
    assert "rare" in told(soft_targets={"source": "text", "rare": 0})
    assert "neighbours" in told(soft_targets={"source": "text", "neighbours": 0})
    assert "source" in told(soft_targets={"share": 0.2}) and "it takes source, share, rare and neighbours" in told(
        soft_targets={"share": 0.2}
    )
    assert "source: text" in told(soft_targets={"source": "priors"}, priors="{}", loss="catalog")
    assert "use loss: catalog" in told(soft_targets={"source": "text"}, loss="lm")
    wish = {"wish": {"prompts": ["cold_start"]}}
    assert "list and next" in told(soft_targets={"source": "text"}, tasks=wish)
    assert "above 0" in told(loss_temperature=0.0, loss="catalog")
    assert "lm_weight" in told(loss_temperature=2.0, loss="residual")


def test_what_changes_the_loss_is_told() -> None:
    plain = Recipe.parse(loss="catalog")
    assert plain.loss_as_told() == "`catalog`"
    both = Recipe.parse(loss="catalog", loss_temperature=2.0, soft_targets='{"source": "text", "share": 0.2}')
    assert both.loss_as_told() == (
        "`catalog`, temperature 2, soft targets by text (share 0.2, half of it for items taken 20 times, 3 neighbours)"
    )
