"""The neural sequence prior: what it learns, its loss, its causality, and how it is kept."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError, ConfigError
from llmgen.priors import ExcludeSeen, SASRec, network, network_training, sequence
from llmgen.priors.kinds import kind
from llmgen.priors.network import Network, Settings, Window, softmax_loss, windows
from llmgen.priors.stored import load_prior
from llmgen.recommend.recommender import Recommender
from llmgen.types import FloatArray, Item, Query

COUNT = 12
WHEEL = Catalog([Item(str(number), f"Song {number}") for number in range(COUNT)])
SMALL: dict[str, Any] = {
    "dim": 16,
    "layers": 1,
    "heads": 2,
    "dropout": 0.0,
    "lr": 0.01,
    "batch_size": 16,
    "max_length": 8,
}


def cycle(users: int = 60, length: int = 6) -> pl.DataFrame:
    """Each user goes round the wheel from a place of the user's own: the last item alone decides what comes next."""
    rows = [(f"u{user:02}", str((user + step) % COUNT), float(step)) for user in range(users) for step in range(length)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def after(*items: int) -> Query:
    return Query(history=[WHEEL[item % COUNT] for item in items])


@pytest.fixture(scope="module")
def learned() -> SASRec:
    return SASRec.fit(cycle(), WHEEL, epochs=40, patience=40, **SMALL)


def test_a_cycle_is_learned(learned: SASRec) -> None:
    weights = np.exp(learned.log_weights([after(item - 1, item) for item in range(COUNT)]))
    nexts = [(item + 1) % COUNT for item in range(COUNT)]
    assert weights.argmax(axis=1).tolist() == nexts
    # a share of 1 has the weight .9 * 12 + .1; of the others nothing but the floor is left
    assert (weights[np.arange(COUNT), nexts] > 0.95 * 10.9).all()


def test_it_recommends_beside_other_priors(learned: SASRec) -> None:
    answer = Recommender(WHEEL, None, priors=[learned]).recommend(Query(history=["3", "4"], k=2))
    assert answer[0].item.id == "5" and answer[0].terms["sasrec"] == pytest.approx(np.log(10.9), abs=0.05)


def test_the_same_arguments_give_the_same_model() -> None:
    few = SMALL | {"dropout": 0.3, "epochs": 2}
    before = torch.random.get_rng_state()
    first, second, other = (SASRec.fit(cycle(), WHEEL, seed=seed, **few) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    said = [prior.log_weights([after(3, 4)]) for prior in (first, second, other)]
    assert (said[0] == said[1]).all() and not np.allclose(said[0], said[2])


def test_the_loss_of_two_items_by_hand() -> None:
    # logits 2 * 1 = 2 and 2 * .5 = 1: log(1 + e^(1 - 2)) where the first is right, log(1 + e^(2 - 1)) for the second
    table, states = torch.tensor([[1.0], [0.5]]), torch.tensor([[2.0], [2.0]])
    assert float(softmax_loss(states[:1], table, torch.tensor([0]))) == pytest.approx(np.log1p(np.exp(-1)))
    both = float(softmax_loss(states, table, torch.tensor([0, 1])))
    assert both == pytest.approx(np.log1p(np.exp(-1)) + np.log1p(np.exp(1)))


@pytest.mark.parametrize("cells", [1, 40, 1 << 20])
def test_the_loss_in_pieces_is_the_cross_entropy_of_torch(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(network.CELLS, "cpu", cells)
    drawn = torch.Generator().manual_seed(0)
    states = (3 * torch.randn(7, 5, generator=drawn)).requires_grad_()
    table = torch.randn(9, 5, generator=drawn).requires_grad_()
    targets = torch.tensor([0, 8, 3, 3, 1, 7, 8])
    ours, theirs = (
        softmax_loss(states, table, targets),
        torch.nn.functional.cross_entropy(states @ table.T, targets, reduction="sum"),
    )
    slopes = [torch.autograd.grad(loss / 7, [states, table]) for loss in (ours, theirs)]
    assert torch.allclose(ours, theirs)
    for mine, reference in zip(*slopes, strict=True):
        assert torch.allclose(mine, reference, atol=1e-6)


def test_the_sum_over_drawn_items_is_right_in_the_mean() -> None:
    """Over all ways to draw two of three items, each as often as it is drawn, exp(loss) is Z / exp(own logit)."""
    state, table, shares = torch.tensor([[1.5]]), torch.tensor([[1.0], [-0.5], [0.3]]), torch.tensor([0.5, 0.2, 0.3])
    mean = 0.0
    for pair in itertools.product(range(3), repeat=2):
        drawn = torch.tensor(pair)
        loss = softmax_loss(state, table, torch.tensor([1]), drawn, (2 * shares[drawn]).log())
        mean += float(shares[drawn].prod() * loss.exp())
    logits = 1.5 * np.array([1.0, -0.5, 0.3])
    assert mean == pytest.approx(np.exp(logits).sum() / np.exp(logits[1]))


def test_the_slopes_of_the_loss_over_drawn_items_are_those_of_autograd() -> None:
    made = torch.Generator().manual_seed(1)
    states, table = (
        torch.randn(4, 3, generator=made).requires_grad_(),
        torch.randn(6, 3, generator=made).requires_grad_(),
    )
    targets, drawn, log_counts = torch.tensor([0, 1, 2, 5]), torch.tensor([1, 1, 4, 5]), torch.randn(4, generator=made)
    own = (states * table[targets]).sum(1, keepdim=True)
    others = (states @ table[drawn].T - log_counts).masked_fill(targets[:, None] == drawn, -torch.inf)
    plain = (torch.logsumexp(torch.cat([own, others], 1), 1) - own[:, 0]).sum()
    ours = softmax_loss(states, table, targets, drawn, log_counts)
    assert torch.allclose(ours, plain)
    for mine, reference in zip(*(torch.autograd.grad(one, [states, table]) for one in (ours, plain)), strict=True):
        assert torch.allclose(mine, reference, atol=1e-6)


@pytest.mark.parametrize("negatives", [0, 6])
def test_a_large_catalog_learns_from_drawn_items(negatives: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_training, "NEGATIVES", 5)
    monkeypatch.setattr(network_training, "FULL_ITEMS", 5 if negatives == 0 else 100)
    sizes = set()
    loss = network.softmax_loss

    def seen(states: Tensor, table: Tensor, targets: Tensor, drawn: Tensor, log_counts: Tensor) -> Tensor:
        sizes.add(len(drawn))
        return loss(states, table, targets, drawn, log_counts)

    monkeypatch.setattr(network_training, "softmax_loss", seen)
    prior = SASRec.fit(cycle(), WHEEL, epochs=30, patience=30, negatives=negatives, **SMALL)
    assert sizes == {negatives or 5}
    assert prior.log_weights([after(item) for item in range(COUNT)]).argmax(axis=1).tolist() == [*range(1, COUNT), 0]


@pytest.mark.parametrize("training", [True, False])
def test_a_state_depends_on_no_later_item(training: bool) -> None:
    sizes = Settings(
        **{one.name: 1 for one in dataclasses.fields(Settings)} | {"dim": 8, "heads": 2, "dropout": 0, "max_length": 5}
    )
    made = Network(6, sizes).train(training)
    with torch.no_grad():
        short = made(torch.tensor([[1, 2, 3]]))
        long = made(torch.tensor([[1, 2, 3, 4, 5], [1, 2, 4, 0, 0]]))
    assert torch.allclose(long[0, :3], short[0], atol=1e-6)
    assert torch.allclose(long[1, :2], short[0, :2], atol=1e-6) and not torch.allclose(
        long[1, 2], short[0, 2], atol=1e-3
    )


@pytest.mark.parametrize(("lengths", "max_length"), [((1, 2, 9), 4), ((7, 30, 5), 6), ((10,), 1), ((51, 52), 50)])
def test_every_item_but_the_first_is_a_target_once(lengths: tuple[int, ...], max_length: int) -> None:
    ends = np.cumsum(lengths)
    found = windows(ends - lengths, ends, max_length)
    targets = [place for one in found for place in range(one.first, one.end)]
    firsts = set((ends - lengths).tolist())
    assert sorted(targets) == [place for place in range(ends[-1]) if place not in firsts]
    for one in found:
        begins = one.start in firsts
        assert one.end - one.start <= max_length + 1 and one.first > one.start
        assert begins or one.first - one.start >= max_length // 2 or max_length == 1


def test_a_sequence_that_fits_is_one_window() -> None:
    assert windows(np.array([3]), np.array([8]), 4) == [Window(3, 8, 4)]


@pytest.mark.parametrize("top", [1, 4, 1_000])
def test_the_sparse_form_says_the_same(learned: SASRec, top: int) -> None:
    prior = dataclasses.replace(learned, top=top)
    queries = [after(1, 2), Query(), after(5), after(*range(20))]
    dense = prior.log_weights(queries)
    rows = prior.sparse_log_weights(queries)
    assert np.allclose([row.at(np.arange(COUNT)) for row in rows], dense, atol=1e-12)
    assert [len(row.items) for row in rows] == [min(top, COUNT), 0, min(top, COUNT), min(top, COUNT)]
    assert not dense[1].any()
    assert prior.log_weights([]).shape == (0, COUNT) and prior.sparse_log_weights([]) == []


def test_a_query_is_answered_alike_in_any_company(learned: SASRec) -> None:
    queries = [after(*range(start, start + length)) for start in range(3) for length in (1, 5, 9)]
    together = learned.log_weights(queries)
    alone = np.concatenate([learned.log_weights([query]) for query in queries])
    assert np.allclose(together, alone, atol=1e-4)


def test_items_that_it_does_not_know(learned: SASRec) -> None:
    gone = Query(history=[Item("z", "Gone"), WHEEL["4"]])
    assert (learned.log_weights([gone]) == learned.log_weights([after(4)])).all()
    # 5 leaves, 3 and 4 change places, and a new item comes in between
    order = [0, 1, 2, 4, -1, 3, *range(6, COUNT)]
    items = [Item("new", "New") if place < 0 else WHEEL[place] for place in order]
    moved = learned.on_catalog(Catalog(items), np.array(order))
    said = moved.log_weights([Query(history=[WHEEL["2"]]), Query(history=[items[4]])])
    assert said[0, 4] == 0.0 and said[0].argmax() == order.index(3) and not said[1].any()
    sparse = moved.sparse_log_weights([Query(history=[WHEEL["2"]])])[0].at(np.arange(COUNT))
    assert np.allclose(sparse, said[0], atol=1e-12)
    again = moved.on_catalog(WHEEL, np.array([order.index(place) if place in order else -1 for place in range(COUNT)]))
    kept = np.arange(COUNT) != 5
    assert np.allclose(again.log_weights([after(2)])[:, kept].argmax(), 3) and again.log_weights([after(2)])[0, 5] == 0


@pytest.mark.parametrize("log", [cycle(0), cycle(users=5, length=1)], ids=["empty", "one item each"])
def test_where_nothing_follows_anything_it_says_nothing(log: pl.DataFrame) -> None:
    log = log.cast({"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Float64})
    prior = SASRec.fit(log, WHEEL)
    assert (
        not prior.log_weights([after(1, 2)]).any()
        and not prior.sparse_log_weights([after(1)])[0].at(np.arange(3)).any()
    )


def test_the_training_ends_where_validation_gets_no_better(caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing to learn in a log without order, and so nothing that helps for long."""
    drawn = np.random.default_rng(0).integers(COUNT, size=360).astype(str)
    log = cycle().with_columns(item_id=pl.Series(drawn))
    with caplog.at_level("INFO"):
        SASRec.fit(log, WHEEL, epochs=200, patience=3, **SMALL)
    told = [line for line in caplog.messages if "was the best" in line]
    best, ran = (int(word) for word in told[0].split() if word.isdigit())
    assert ran == best + 3 < 200


class Stopped(Exception):
    """The process was killed."""


def test_a_training_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few: dict[str, Any] = SMALL | {"dropout": 0.2, "epochs": 4}
    whole = SASRec.fit(cycle(), WHEEL, **few)
    path = tmp_path / "runs" / "sasrec.pt"
    write, epochs = network_training._Training._write, []

    def stop(training: network_training._Training, state: network_training._State) -> None:
        write(training, state)
        epochs.append(state.epoch)
        if state.epoch == 2 and len(epochs) == 2:
            raise Stopped

    monkeypatch.setattr(network_training._Training, "_write", stop)
    with pytest.raises(Stopped):
        SASRec.fit(cycle(), WHEEL, checkpoint=path, **few)
    with pytest.raises(ConfigError, match="has not ended"):
        SASRec.load(path, WHEEL)
    resumed = SASRec.fit(cycle(), WHEEL, checkpoint=path, **few)
    again = SASRec.fit(cycle(), WHEEL, checkpoint=str(path), **few)
    assert epochs == [1, 2, 3, 4]
    asked = [after(3), after(8, 9)]
    for one in (resumed, again, SASRec.load(path, WHEEL), kind("sasrec").fit(None, WHEEL, trained=str(path))):
        assert (one.log_weights(asked) == whole.log_weights(asked)).all()
    shop = Catalog([Item("new", "New"), *reversed(WHEEL)])
    loaded = SASRec.load(path, shop, weight=0.5)
    said = loaded.log_weights([Query(history=[WHEEL["3"]])])
    assert loaded.weight == 0.5 and said[0, 0] == 0.0
    assert shop[int(said.argmax())].id == WHEEL[int(whole.log_weights([after(3)]).argmax())].id
    with pytest.raises(ConfigError, match=r"sasrec\.pt is of a training with other settings or on another log"):
        SASRec.fit(cycle(), WHEEL, checkpoint=path, **few | {"lr": 0.02})


def test_what_is_no_file_of_a_training_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.pt does not exist"):
        SASRec.load(tmp_path / "no.pt", WHEEL)
    (tmp_path / "text.pt").write_text("not a model")
    with pytest.raises(ConfigError, match=r"text\.pt is no file of SASRec\.fit"):
        SASRec.load(tmp_path / "text.pt", WHEEL)


def test_it_is_saved_with_what_was_fitted(learned: SASRec, tmp_path: Path) -> None:
    order = [0, 1, 2, 4, -1, 3, *range(6, COUNT)]  # with an item that it does not know, and without one that it does
    catalog = Catalog([Item("new", "New") if place < 0 else WHEEL[place] for place in order])
    moved = dataclasses.replace(learned.on_catalog(catalog, np.array(order)), weight=0.5, top=5, floor=0.2)
    for number, prior in enumerate([learned, moved, SASRec.fit(cycle(5, 1), WHEEL)]):
        prior.save(tmp_path / str(number))
        loaded = load_prior(tmp_path / str(number), prior.catalog)
        assert isinstance(loaded, SASRec)
        assert (loaded.log_weights([after(2), Query()]) == prior.log_weights([after(2), Query()])).all()
        assert (loaded.weight, loaded.top, loaded.floor) == (prior.weight, prior.top, prior.floor)


def test_given_vectors_are_the_first_embeddings() -> None:
    """Vectors of two directions in 40 dimensions: their strongest ones keep all angles."""
    angles = np.arange(COUNT) * 2 * np.pi / COUNT
    flat = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    wide: FloatArray = flat @ np.random.default_rng(0).normal(size=(2, 40))
    prior = SASRec.fit(cycle(), WHEEL, vectors=wide, start="random", epochs=1, **SMALL | {"lr": 1e-9})
    assert prior.network is not None
    table = prior.network.items.weight.detach().numpy().astype(np.float64)
    assert table.std() == pytest.approx(network.SPREAD, rel=1e-3)
    scale = (table @ table.T)[0, 0] / (wide @ wide.T)[0, 0]
    assert np.allclose(table @ table.T, scale * wide @ wide.T, atol=1e-5)


@pytest.mark.parametrize("small", [500, 5])
def test_the_first_embeddings_are_like_where_items_follow_one_another(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two groups of six items, and nobody goes from one to the other: the strongest directions tell them apart."""
    monkeypatch.setattr(sequence, "SMALL", small)
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", str(6 * (user % 2) + item), float(step))
        for user in range(60)
        for step, item in enumerate(rng.permutation(6)[:4])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    prior = SASRec.fit(log, WHEEL, epochs=1, **SMALL | {"dim": 2, "lr": 1e-9})
    assert prior.network is not None
    table = prior.network.items.weight.detach().numpy()
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    likeness = table @ table.T
    same = np.arange(COUNT)[:, None] // 6 == np.arange(COUNT) // 6
    assert (likeness[same] > 0.9).all() and (likeness[~same] < 0.5).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": "zeros"}, "start must be one of log, random, not 'zeros'"),
        ({"dim": 0}, "dim must be 1 or more, not 0"),
        ({"dim": 10, "heads": 4}, "dim must be a multiple of heads=4, not 10"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"lr": 0.0}, "lr must be above 0, not 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more, not -1.0"),
        ({"validation_users": -1}, "validation_users must be 0 or more, not -1"),
        ({"negatives": -1}, "negatives must be 0 or more, not -1"),
        ({"top": 0}, "top must be 1 or more, not 0"),
        ({"floor": 0.0}, r"floor must be in \(0, 1\], not 0.0"),
        ({"vectors": np.zeros((3, 4))}, r"vectors must be \[12, any\], one an item, not \(3, 4\)"),
        ({"vectors": np.full((12, 4), np.nan)}, "vectors have NaN or infinity"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_trained(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_training, "train", lambda *given, **more: pytest.fail("it is trained"))
    with pytest.raises(ArgumentError, match=message):
        SASRec.fit(cycle(), WHEEL, **settings)


def test_the_priors_are_there_without_torch() -> None:
    """Importing them loads none; where there is none, the error says what to install."""
    program = """
import sys
from llmgen.priors import SASRec, Transition
assert "torch" not in sys.modules
sys.modules["torch"] = None
import polars
from llmgen import Catalog, Item
log = polars.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [1.0, 2.0]})
try:
    SASRec.fit(log, Catalog([Item("a", "A"), Item("b", "B")]))
except Exception as error:
    print(type(error).__name__, error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("ConfigError the prior sasrec needs torch") and "llmgen[hf]" in ran.stdout


def test_what_was_seen_is_removed_by_others(learned: SASRec) -> None:
    assert (
        np.isneginf(ExcludeSeen(WHEEL).log_weights([after(4)])[0, 4])
        and np.isfinite(learned.log_weights([after(4)])).all()
    )
