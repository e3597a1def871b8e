"""A weight of the model for each request: fitted on what is planted, searched with proof, read and refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from llmgen.adapters import AdapterRecord
from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import History
from llmgen.engines import Engine, Step
from llmgen.engines.fake import VOCABULARY, FakeEngine
from llmgen.errors import ArgumentError, ConfigError
from llmgen.http.schemas import RecommendationsBody
from llmgen.priors import Popularity, Prior
from llmgen.recommend.recommender import Recommender
from llmgen.recommend.request_weight import Features, RequestWeight, Slope, features_of
from llmgen.recommend.settings import GivenSettings
from llmgen.recommend.weighing import Choices, choices_of, fit_weight, nats_of
from llmgen.types import FloatArray, Item, Query
from tests.reference import item_logprobs

SHOP = Catalog([Item(f"i{n}", f"{chr(97 + n % 26)}{chr(97 + n // 26)} thing") for n in range(40)])
POPULARITY = Popularity.fit(
    pl.DataFrame([("u", SHOP[n].id, 0.0) for n in range(40) for _ in range(1 + n % 7)],
                 schema=["user_id", "item_id", "timestamp"], orient="row"),
    SHOP,
)  # fmt: skip
BY_LENGTH = RequestWeight(bias=-1.0, history_length=Slope(slope=-0.8, mean=1.5, scale=0.6, low=0.0, high=4.0))


def planted(users: int, seed: int, weight_of: Any, *, items: int = 30) -> list[Choices]:
    """Users with histories of 1 to 40 items who chose by the formula itself, with the weight that is planted."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(users):
        features = Features(math.log1p(rng.integers(1, 41)), rng.uniform(1, 3), 0.0)
        lm = rng.normal(0, 3, items)
        lm -= np.logaddexp.reduce(lm)
        rest = rng.normal(0, 1, items)
        score = weight_of(features) * lm + rest
        order = np.argsort(
            np.arange(items) != rng.choice(items, p=np.exp(score - np.logaddexp.reduce(score))), kind="stable"
        )
        found.append(Choices(features, lm[order], rest[order]))
    return found


# The weight itself


def test_the_weight_is_the_exponential_of_a_line_that_ends_where_the_fit_ended() -> None:
    weight = RequestWeight(
        bias=math.log(0.5),
        history_length=Slope(slope=-1.0, mean=2.0, scale=0.5, low=1.0, high=3.0),
        cold_share=Slope(slope=2.0, mean=0.1, scale=0.2, low=0.0, high=0.3),
    )
    assert weight.usual == pytest.approx(0.5)
    assert weight.at(Features(2.0, 9.0, 0.1)) == pytest.approx(0.5)
    assert weight.at(Features(2.5, 9.0, 0.1)) == pytest.approx(0.5 * math.exp(-1))
    assert weight.at(Features(2.0, 9.0, 0.2)) == pytest.approx(0.5 * math.exp(1))
    assert weight.at(Features(7.0, 9.0, 0.9)) == weight.at(Features(3.0, 0.0, 0.3)) == pytest.approx(0.5)
    assert (weight.reads_prior, weight.reads_log) == (True, True)
    assert (BY_LENGTH.reads_prior, BY_LENGTH.reads_log) == (False, False)


def test_features_are_length_entropy_and_share_of_items_that_nobody_took() -> None:
    query = Query(SHOP[:3])
    prior = np.log([0.5, 0.25, 0.25, 1.0])
    prior[3] = -np.inf
    taken = np.array([True, False, True, False])
    assert features_of(query, prior, taken) == pytest.approx((math.log(4), 1.5 * math.log(2), 1 / 3))
    assert features_of(query, prior + 900, taken) == pytest.approx((math.log(4), 1.5 * math.log(2), 1 / 3))
    assert features_of(Query(), np.zeros(8), None) == pytest.approx((0.0, math.log(8), 0.0))
    assert features_of(Query(), np.full(2, -np.inf), None) == (0.0, 0.0, 0.0)


# The fit


def test_the_fit_finds_what_was_planted_and_gains_on_fresh_users() -> None:
    def true(features: Features) -> float:
        return math.exp(-1.2 - 1.0 * (features.history_length - 2.5))

    fitted = fit_weight(planted(600, 1, true))
    short, long_ = Features(math.log1p(2), 2.0, 0.0), Features(math.log1p(35), 2.0, 0.0)
    assert fitted.weight.at(short) == pytest.approx(true(short), rel=0.15)
    assert fitted.weight.at(long_) == pytest.approx(true(long_), rel=0.25)
    assert abs(fitted.weight.prior_entropy.slope) < 0.15 < -fitted.weight.history_length.slope
    assert fitted.weight.cold_share.slope == 0  # all alike
    fresh = planted(600, 2, true)
    best, own = nats_of(fitted.constant, fresh), nats_of(fitted.weight, fresh)
    truth = np.concatenate([nats_of(true(one.features), [one]) for one in fresh])
    gain = best - own
    assert gain.mean() > 3 * gain.std() / math.sqrt(len(gain))
    assert own.mean() == pytest.approx(truth.mean(), abs=0.02)
    assert fitted.nats < fitted.nats_constant < fitted.nats_prior


def test_a_model_that_knows_nothing_gets_next_to_no_weight() -> None:
    fitted = fit_weight(planted(600, 3, lambda features: 0.0))
    assert fitted.constant < 0.03
    assert max(fitted.weight.at(one.features) for one in planted(50, 4, lambda features: 0.0)) < 0.06


def test_where_requests_are_alike_or_slopes_are_forbidden_it_is_the_best_constant() -> None:
    some = planted(200, 5, lambda features: 0.4)
    alike = [one._replace(features=Features(1.0, 2.0, 0.3)) for one in some]
    grid = np.linspace(0.2, 0.7, 1001)
    best = grid[np.argmin([nats_of(weight, some).mean() for weight in grid])]
    assert fit_weight(alike).constant == pytest.approx(best, abs=1e-3)
    assert fit_weight(alike).weight.at(Features(5.0, 5.0, 0.9)) == pytest.approx(best, abs=1e-3)
    held = fit_weight(some, ridge=math.inf).weight
    assert {one.slope for one in held.slopes} == {0.0}
    assert held.usual == pytest.approx(best, abs=1e-3)
    slopes = [abs(fit_weight(some, ridge=ridge).weight.history_length.slope) for ridge in (0.0, 100.0, 1e6)]
    assert slopes[0] >= slopes[1] >= slopes[2] and slopes[2] < 1e-3


def test_nats_are_those_of_the_formula() -> None:
    one = Choices(Features(0, 0, 0), np.log([0.2, 0.7, 0.1]), np.log([0.5, 0.1, 0.4]))
    products = np.array([0.2, 0.7, 0.1]) ** 0.5 * np.array([0.5, 0.1, 0.4])
    assert nats_of(0.5, [one]) == pytest.approx([-math.log(products[0] / products.sum())])


@pytest.mark.parametrize(
    "choices, ridge, said",
    [
        ([], 1.0, "no held-out item"),
        ([Choices(Features(0, 0, 0), np.zeros(2), np.zeros(2))], -1.0, "ridge must be 0 or more, not -1"),
    ],
)
def test_a_fit_refuses_what_it_cannot_use(choices: list[Choices], ridge: float, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        fit_weight(choices, ridge=ridge)


# With a recommender


def made(engine: Engine | None = None, **settings: Any) -> Recommender:
    return Recommender(SHOP, engine or FakeEngine(), priors=[POPULARITY], **settings)


def asked(users: int, seed: int) -> list[Query]:
    """Histories of 1 or 12 items, each another one."""
    rng = np.random.default_rng(seed)
    return [Query([SHOP[n] for n in rng.permutation(40)[: 1 if u % 2 else 12]], user_id=str(u)) for u in range(users)]


def brute(recommender: Recommender, query: Query, weight: float) -> dict[str, float]:
    """Score of every eligible item: the model is asked about each token of each title, and nothing is searched."""
    engine, parts = recommender.engine, recommender.parts
    assert engine is not None
    prompt = parts.prompt("recommend", query).token_ids
    log_prior = parts.multiplied([query]).row(0).dense()

    def next_logprobs(suffix: tuple[int, ...]) -> FloatArray:
        return engine.next_logprobs([Step(prompt, suffix, np.arange(VOCABULARY), full=True)])[0]

    paths = engine.spell(SHOP.spellings)
    scores = weight * item_logprobs(paths, next_logprobs, "trie", "catalog", log_prior) + log_prior
    return {item.id: score for item, score in zip(SHOP, scores.tolist(), strict=True) if score > -np.inf}


def test_each_request_is_searched_with_its_own_weight_and_the_proof_holds() -> None:
    own = made(lm_weight=BY_LENGTH, exact=True)
    queries = asked(8, 0)
    answers = own.recommend_many(queries)
    for query, answer in zip(queries, answers, strict=True):
        weight = BY_LENGTH.at(Features(math.log1p(len(query.history)), 0, 0))
        scores = brute(own, query, weight)
        best = sorted(scores, key=lambda one: -scores[one])[: query.k]
        assert answer.lm_weight == pytest.approx(weight)
        assert answer.exact
        assert [place.item.id for place in answer] == best
        assert [place.score for place in answer] == pytest.approx([scores[one] for one in best])
        assert all(place.score == pytest.approx(sum(place.terms.values())) for place in answer)
        alone = made(lm_weight=weight, exact=True).recommend(query)
        assert answer == own.recommend(query) == alone  # no company, and no other way to say it, changes an answer
    assert len({answer.lm_weight for answer in answers}) == 2


def test_tuning_fits_a_weight_that_falls_where_the_model_knows_less() -> None:
    """Users took what the formula with a planted weight drew for them, .9 after one item and .05 after twelve."""
    rng = np.random.default_rng(1)
    queries = asked(120, 2)
    unseen = [next(item.id for item in SHOP if item not in query.items) for query in queries]
    held_out = []
    for query, first, every in zip(
        queries, unseen, choices_of(made().parts, queries, unseen, candidates=40), strict=True
    ):
        assert every is not None
        scores = (0.9 if len(query.history) == 1 else 0.05) * every.lm + every.rest
        ids = [first, *(item.id for item in SHOP if item not in query.items and item.id != first)]
        held_out.append(ids[rng.choice(len(ids), p=np.exp(scores - np.logaddexp.reduce(scores)))])
    tuned = made().tune(queries, held_out, grid=(1.0,), lm_weight="fitted")
    found = [tuned.recommender.recommend(query).lm_weight for query in queries[:2]]  # of a long and a short history
    assert found == pytest.approx([0.05, 0.9], abs=0.2)
    assert tuned.fitted is not None and tuned.fitted.requests == 120
    assert tuned.fitted.nats < tuned.fitted.nats_constant - 0.05
    assert tuned.lm_scores == {}
    sampled = made().tune(queries, held_out, grid=(1.0,), lm_weight="fitted", candidates=20)
    assert sampled.recommender.recommend(queries[1]).lm_weight == pytest.approx(found[1], rel=0.35)


def test_a_sampled_set_weighs_each_item_by_how_often_it_was_drawn() -> None:
    parts = made().parts
    query = Query(SHOP[:1])
    every = choices_of(parts, [query], ["i9"], candidates=40)[0]
    some = choices_of(parts, [query], ["i9"], candidates=10)[0]
    assert every is not None and some is not None
    assert len(every.lm) == 39  # without the one that was seen
    scores = brute(made(), query, 1.0)  # of the catalog but the first item; the held-out one comes first
    order = ["i9", *(item for item in scores if item != "i9")]
    assert every.lm + every.rest == pytest.approx([scores[item] for item in order])
    assert every.lm[0] == some.lm[0]
    assert np.exp(some.rest).sum() == pytest.approx(10)  # nine draws and the item itself
    assert set(some.lm.tolist()) <= set(every.lm.tolist())
    assert choices_of(parts, [query], ["i0"], candidates=10) == [None]  # seen: no weight brings it back


@pytest.mark.parametrize(
    "engine, settings, candidates, said",
    [
        (FakeEngine(constrained=False), {}, 10, "free decoding has none"),
        (FakeEngine(), {"normalise": "eligible"}, 10, "normalise='catalog'"),
        (FakeEngine(), {}, 1, "candidates must be 2 or more, not 1"),
    ],
)
def test_what_cannot_be_fitted_is_told_first(engine: Engine, settings: Any, candidates: int, said: str) -> None:
    with pytest.raises((ConfigError, ArgumentError), match=said):
        choices_of(made(engine, **settings).parts, [Query()], ["i1"], candidates=candidates)


def test_without_a_model_no_weight_is_fitted() -> None:
    with pytest.raises(ConfigError, match="needs a language model"):
        Recommender(SHOP, None, priors=[POPULARITY]).tune([Query()], ["i1"], lm_weight="fitted")


def test_a_weight_that_goes_by_cold_items_needs_the_log() -> None:
    cold = RequestWeight(bias=0.0, cold_share=Slope(slope=1.0, mean=0.5, scale=0.5, low=0.0, high=1.0))
    with pytest.raises(ConfigError, match=r"cold_share.*histories="):
        made(lm_weight=cold)
    taken = {"u": History(tuple(SHOP[:20]), None)}
    own = made(lm_weight=cold, histories=taken)
    assert own.recommend(Query()).lm_weight == pytest.approx(1.0)  # half of the shop was taken
    only_cold = [item.id for item in SHOP[20:]]
    assert own.rank(Query(), only_cold).lm_weight == pytest.approx(math.e)
    grown = own.with_catalog(SHOP.with_items([Item(f"n{n}", f"new {n}") for n in range(40)]))
    assert grown.recommend(Query()).lm_weight == pytest.approx(math.exp(0.5))  # 60 of 80


# As settings


def test_it_is_read_as_a_mapping_or_from_a_file_and_written_the_same(tmp_path: Path) -> None:
    path = tmp_path / "weight.json"
    BY_LENGTH.write(path)
    for given in (BY_LENGTH, BY_LENGTH.model_dump(), json.loads(path.read_text()), str(path), path):
        settings = GivenSettings.model_validate({"lm_weight": given})
        assert settings.lm_weight == BY_LENGTH
        assert GivenSettings.model_validate_json(settings.model_dump_json()) == settings
        assert settings.config().lm_weight == BY_LENGTH
    assert GivenSettings.model_validate({"lm_weight": "0.25"}).lm_weight == 0.25
    assert hash(BY_LENGTH) == hash(RequestWeight.read(path))


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "cannot read .*gone.json"),
        ("{", "gone.json is no JSON file"),
        ("[1]", "must be a JSON object, not \\[1\\]"),
        ('{"history": 1}', "bias: Field required; history: Extra inputs"),
        ('{"bias": 0, "cold_share": {"scale": 0}}', "cold_share.scale: Input should be greater than 0"),
        ('{"bias": 0, "cold_share": {"low": 2, "high": 1}}', "cold_share: low is 2 and high is 1"),
        ('{"bias": 7}', "all: the weight may grow to exp\\(7\\); it must stay below 1000"),
        ('{"bias": NaN}', "bias: Input should be a finite number"),
    ],
)
def test_a_bad_file_is_refused_in_one_message(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "gone.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        GivenSettings.model_validate({"lm_weight": str(path)})
    assert "1 validation error" in str(error.value)


def test_it_goes_round_through_an_adapters_record_a_folder_and_http(tmp_path: Path) -> None:
    record = AdapterRecord(
        base_model="b", loss="lm", prompts=(), catalog="c", tokenizer="t", data="d", seed=0,
        recommender=GivenSettings(lm_weight=BY_LENGTH, prompt="next_item"),
    )  # fmt: skip
    record.write(tmp_path)
    read = AdapterRecord.read(tmp_path)
    assert read == record
    own = made(lm_weight=BY_LENGTH)
    own.save(tmp_path / "saved")
    loaded = Recommender.load(tmp_path / "saved", engine=FakeEngine())
    assert loaded.config == own.config
    answer = own.recommend(Query(SHOP[:2]))
    assert loaded.recommend(Query(SHOP[:2])) == answer
    body = RecommendationsBody.dump(answer, [place.item.title for place in answer])
    assert body["lm_weight"] == answer.lm_weight
    assert RecommendationsBody.model_validate(body).value().lm_weight == answer.lm_weight


def test_the_weight_of_an_answer_is_that_of_its_scores() -> None:
    priors: list[Prior] = [POPULARITY]
    assert made(lm_weight=0.3).recommend(Query()).lm_weight == 0.3
    assert Recommender(SHOP, None, priors=priors).recommend(Query()).lm_weight == 0
    assert made(FakeEngine(["aa thing"]), decoding="free").recommend(Query()).lm_weight is None
