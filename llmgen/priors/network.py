"""The network of `llmgen.priors.SASRec` and its training; what needs torch of the sequence prior is in this file.

A causal transformer over the items of a history, whose last state times the embedding of an item is that item's logit.
Sequences are padded behind their last item, and a state sees only what stands before it, so padding changes nothing.
"""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from llmgen.errors import ConfigError
from llmgen.priors.interactions import Sequences
from llmgen.progress import Stage
from llmgen.types import FloatArray, IntArray

logger = logging.getLogger(__name__)

CELLS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits that are held at once: what a processor's cache holds, and half a GiB of a card."""
FULL_ITEMS = 100_000
"""Up to so many items the loss is the softmax over all of them, unless a number of drawn ones is given."""
NEGATIVES = 8_192
"""Items that are drawn above, unless another number is given."""
SPREAD = 0.02
"""Standard deviation of the first weights and embeddings."""
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""
CUT_OFF = 10
"""Of NDCG in early stopping."""


@dataclass(frozen=True)
class Settings:
    """What the training depends on; see `llmgen.priors.SASRec.fit`."""

    dim: int
    layers: int
    heads: int
    max_length: int
    dropout: float
    lr: float
    weight_decay: float
    epochs: int
    patience: int
    batch_size: int
    validation_users: int
    negatives: int
    seed: int


class Network(nn.Module):
    """SASRec: item and place embeddings, causal transformer layers, and the item embeddings again as the output.

    Args:
        items: How many there are.
        settings: Sizes and dropout.
    """

    def __init__(self, items: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.items = nn.Embedding(items, settings.dim)
        self.places = nn.Embedding(settings.max_length, settings.dim)
        self.norm, self.dropout = nn.LayerNorm(settings.dim), nn.Dropout(settings.dropout)
        layer = nn.TransformerEncoderLayer(
            settings.dim,
            settings.heads,
            4 * settings.dim,
            settings.dropout,
            "gelu",
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(settings.dim)
        self.layers = nn.TransformerEncoder(layer, settings.layers, norm, enable_nested_tensor=False)
        for name, weights in self.named_parameters():
            if weights.ndim > 1:  # small, so that at first a state is little but its own item
                nn.init.normal_(weights, std=SPREAD)
            elif name.endswith("bias"):
                nn.init.zeros_(weights)

    def forward(self, taken: Tensor) -> Tensor:
        """States after each item.

        Args:
            taken: int64 [n, length], rows of items, oldest first, padded at the end with any; at most `max_length`.

        Returns:
            float32 [n, length, dim].
        """
        length = taken.shape[1]
        found = self.dropout(self.norm(self.items(taken) + self.places.weight[:length]))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=taken.device, dtype=found.dtype)
        return cast(Tensor, self.layers(found, mask=mask, is_causal=True))

    def last_states(self, histories: list[IntArray]) -> Tensor:
        """The state after the last item of each history, float32 [n, dim]; no history is empty or too long."""
        device = self.items.weight.device
        ends = torch.tensor([len(taken) - 1 for taken in histories], device=device)
        states: Tensor = self(torch.from_numpy(_padded(histories)).to(device))
        return states[torch.arange(len(histories), device=device), ends]


class _SampledSoftmax(torch.autograd.Function):
    """See `softmax_loss`: the loss and, in the same pass, its gradients, some rows at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        own: Tensor,
        candidates: Tensor,
        targets: Tensor,
        drawn: Tensor | None,
        shift: Tensor | None,
    ) -> Tensor:
        """The sum of the rows' losses."""
        to_states, to_own, to_candidates = (torch.zeros_like(one) for one in (states, own, candidates))
        total = states.new_zeros(())
        at_once = max(1, CELLS[states.device.type] // len(candidates))
        for start in range(0, len(states), at_once):
            rows = slice(start, start + at_once)
            state, right, target = states[rows], own[rows], targets[rows]
            logits = state @ candidates.T
            if drawn is None:
                logits[torch.arange(len(state), device=state.device), target] = -torch.inf
            else:
                assert shift is not None
                logits.sub_(shift).masked_fill_(target[:, None] == drawn, -torch.inf)
            logit = (state * right).sum(dim=1)
            top = torch.maximum(logits.amax(dim=1), logit)
            odds, odd = logits.sub_(top[:, None]).exp_(), (logit - top).exp()
            sums = odds.sum(dim=1) + odd
            total += (top + sums.log() - logit).sum()
            slope = (odd / sums - 1.0)[:, None]
            to_states[rows] = torch.addcmul((odds @ candidates).div_(sums[:, None]), slope, right)
            to_own[rows] = slope * state
            to_candidates.addmm_(odds.T, state / sums[:, None])
        ctx.save_for_backward(to_states, to_own, to_candidates)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        """The gradients, which are there already."""
        return (*(slopes[0] * one for one in ctx.saved_tensors), None, None, None)


def softmax_loss(
    states: Tensor, table: Tensor, targets: Tensor, drawn: Tensor | None = None, log_counts: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the softmax over all items, or over drawn ones in their place; summed over the rows.

    The sum over all items Z = sum_j exp(s_j) is estimated without bias from m items drawn from q with replacement, by
    exp(s_target) + sum over the drawn other ones of exp(s_j) / (m q_j); the target is always there, so its own logit is
    not corrected. Memory is bounded: the logits of some rows are made at a time, and no graph of them is kept.

    Args:
        states: float32 [n, dim].
        table: float32 [items, dim].
        targets: int64 [n], a row of the table each.
        drawn: int64 [m], rows of the table, any number of times; all items once without.
        log_counts: float32 [m], log(m q) of each.

    Source: Bengio & Senecal, IEEE Trans. Neural Networks 2008, for the correction.
    """
    candidates = table if drawn is None else table[drawn]
    apply: Callable[..., Tensor] = _SampledSoftmax.apply  # which torch leaves without types
    return apply(states, table[targets], candidates, targets, drawn, log_counts)


class Window(NamedTuple):
    """A part of a sequence that is learned at once.

    Attributes:
        start: Place of its first item in the log.
        end: One past its last item.
        first: Place of the first item that is a target; those before it only tell what came before.
    """

    start: int
    end: int
    first: int


def windows(starts: IntArray, ends: IntArray, max_length: int) -> list[Window]:
    """The sequences, long ones in windows that overlap by half; every item but the first is a target just once.

    Args:
        starts: int64 [n], place of the first item of each sequence.
        ends: int64 [n], one past its last item.
        max_length: Most items that are told before a target.

    >>> windows(np.array([0]), np.array([7]), 4)
    [Window(start=0, end=5, first=1), Window(start=2, end=7, first=5)]
    """
    found = []
    step = max(1, max_length // 2)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        first = start + 1
        while first < end:
            stop = min(end, start + max_length + 1)
            found.append(Window(start, stop, first))
            first = stop
            start = max(start, min(start + step, end - max_length - 1))
    return found


class _State(NamedTuple):
    """Where a training stands."""

    epoch: int
    best_epoch: int
    best: tuple[float, float]
    best_weights: Mapping[str, Tensor]
    done: bool


def train(
    log: Sequences,
    items: int,
    settings: Settings,
    *,
    vectors: FloatArray | None = None,
    checkpoint: Path | None = None,
    about: Mapping[str, Any] | None = None,
    device: str = "",
) -> Network:
    """Train a network on a log.

    Args:
        log: Items numbered from 0 without gaps.
        items: How many there are, 1 or more.
        settings: See `llmgen.priors.SASRec.fit`.
        vectors: First embeddings, float [items, dim]; drawn without.
        checkpoint: A file that is written after each epoch, and that a training goes on from where it is there.
        about: What stands in the file beside the training; its `digest`, of all that decides the outcome, must be that
            of the file, where it is there.
        device: `cpu` or `cuda`; a card where there is one.

    Returns:
        In evaluation mode, on the CPU.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        network = Network(items, settings)
        if vectors is not None:
            network.items.weight.data.copy_(torch.from_numpy(vectors))
        _Training(network.to(place), log, settings, checkpoint, about or {}).run()
    return network.cpu().eval()


def read(path: Path) -> tuple[Network, Mapping[str, Any]]:
    """The network of a training that ended, and what its file has beside it.

    Raises:
        ConfigError: There is no such file, it is another one, or its training has not ended.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        network = Network(len(found["best_weights"]["items.weight"]), Settings(**found["settings"]))
        network.load_state_dict(found["best_weights"])
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; SASRec.fit(checkpoint=...) writes such a file") from None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} is no file of SASRec.fit(checkpoint=...): {error}") from None
    if not found["done"]:
        raise ConfigError(f"the training of {path} has not ended; fit with it as the checkpoint, and it goes on")
    return network.eval(), found


def write(network: Network, path: Path) -> None:
    """Write a trained network into a file that `read` reads."""
    about = {"settings": asdict(network.settings), "best_weights": network.state_dict(), "done": True}
    torch.save(about, path)


class _Training:
    def __init__(
        self, network: Network, log: Sequences, settings: Settings, checkpoint: Path | None, about: Mapping[str, Any]
    ) -> None:
        self.network, self.settings, self.checkpoint, self.about = network, settings, checkpoint, about
        self.device = network.items.weight.device
        self.items = log.items
        sizes = np.bincount(log.users)
        ends = sizes.cumsum()
        starts = ends - sizes
        asked = np.flatnonzero(sizes >= 3)
        most = min(settings.validation_users, len(asked) // 2)
        self.asked = np.sort(np.random.default_rng(settings.seed).choice(asked, most, replace=False))
        learned = ends.copy()
        learned[self.asked] -= 1  # the last item is for validation
        self.starts, self.ends = starts, ends
        self.windows = windows(starts, learned, settings.max_length)
        self.steps = math.ceil(len(self.windows) / settings.batch_size)
        parameters = list(network.named_parameters())
        matrices = [one for name, one in parameters if one.ndim > 1 and not name.startswith("places")]
        others = [one for name, one in parameters if one.ndim <= 1 or name.startswith("places")]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, settings.lr, (0.9, 0.98), weight_decay=settings.weight_decay)
        total = max(1, self.steps * settings.epochs)
        warm = max(1, round(WARM_UP * total))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min((step + 1) / warm, (total - step) / max(1, total - warm))
        )
        counts = np.bincount(log.items, minlength=network.items.num_embeddings).astype(np.float64)
        shares = (counts + 1.0) / (counts + 1.0).sum()
        self.shares = torch.from_numpy(shares).to(self.device, torch.float32)
        self.negatives = settings.negatives or (NEGATIVES if network.items.num_embeddings > FULL_ITEMS else 0)

    def run(self) -> None:
        """Train to the end, and leave the best weights in the network."""
        state = self._read() or _State(0, 0, (-1.0, 0.0), self._weights(), False)
        settings = self.settings
        with Stage(f"sasrec: {settings.epochs} epochs at most", settings.epochs * self.steps) as stage:
            stage.advance(state.epoch * self.steps)
            while not state.done:
                epoch = state.epoch + 1
                loss = self._epoch(epoch, stage)
                # without users the last epoch is the best
                score = self._score() if len(self.asked) else (float(epoch), 0.0)
                if score > state.best:
                    state = _State(epoch, epoch, score, self._weights(), False)
                last = epoch == settings.epochs or epoch - state.best_epoch >= settings.patience
                state = state._replace(epoch=epoch, done=last)
                ndcg, likely = score
                told = f", validation NDCG@{CUT_OFF} {ndcg:.4f}, {-likely:.4f} nats" if len(self.asked) else ""
                logger.info("sasrec: epoch %d, loss %.4f nats%s", epoch, loss, told)
                self._write(state)
        self.network.load_state_dict(state.best_weights)
        logger.info("sasrec: epoch %d of %d was the best", state.best_epoch, state.epoch)

    def _epoch(self, epoch: int, stage: Stage) -> float:
        """Learn from every window once; the mean loss of a target."""
        torch.manual_seed(self.settings.seed * 1_000_003 + epoch)  # so that a training that goes on draws alike
        self.network.train()
        total, count = 0.0, 0
        for batch in self._batches(epoch):
            taken, wanted = self._told(batch)
            states = self.network(taken)
            learned = wanted >= 0
            targets = wanted[learned]
            drawn, log_counts = self._drawn()
            table = self.network.items.weight
            loss = softmax_loss(states[learned], table, targets, drawn, log_counts)
            self.optimizer.zero_grad(set_to_none=True)
            (loss / len(targets)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            total, count = total + float(loss.detach()), count + len(targets)
            stage.advance()
        return total / max(1, count)

    def _batches(self, epoch: int) -> Iterator[list[Window]]:
        """The windows in random order, those of a batch of about one length."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        size = self.settings.batch_size
        order = rng.permutation(len(self.windows))
        lengths = np.array([window.end - window.start for window in self.windows])
        batches = []
        for start in range(0, len(order), 16 * size):
            some = order[start : start + 16 * size]
            some = some[np.argsort(lengths[some], kind="stable")]
            batches += [some[place : place + size].tolist() for place in range(0, len(some), size)]
        for number in rng.permutation(len(batches)).tolist():
            yield [self.windows[place] for place in batches[number]]

    def _told(self, batch: list[Window]) -> tuple[Tensor, Tensor]:
        """What is told, and what comes next, -1 where that is not learned; int64 [n, length]."""
        taken = _padded([self.items[one.start : one.end - 1] for one in batch])
        wanted = np.full_like(taken, -1)
        for row, one in zip(wanted, batch, strict=True):
            row[one.first - one.start - 1 : one.end - one.start - 1] = self.items[one.first : one.end]
        return torch.from_numpy(taken).to(self.device), torch.from_numpy(wanted).to(self.device)

    def _drawn(self) -> tuple[Tensor | None, Tensor | None]:
        if not self.negatives:
            return None, None
        drawn = torch.multinomial(self.shares, self.negatives, replacement=True)
        return drawn, (self.shares[drawn] * self.negatives).log()

    @torch.no_grad()
    def _score(self) -> tuple[float, float]:
        """How well the items held out are found among all but those of the history: NDCG, mean log-likelihood.

        Ties count against an item. Of epochs with one NDCG the more likely is better.
        """
        self.network.eval()
        gains = likely = 0.0
        table = self.network.items.weight
        at_once = max(1, CELLS[self.device.type] // len(table))
        for start in range(0, len(self.asked), at_once):
            users = self.asked[start : start + at_once]
            past = [self.items[self.starts[user] : self.ends[user] - 1] for user in users]
            logits = self.network.last_states([taken[-self.settings.max_length :] for taken in past]) @ table.T
            for row, taken in zip(logits, past, strict=True):
                row[torch.from_numpy(taken).to(self.device)] = -torch.inf
            wanted = logits[torch.arange(len(users)), torch.from_numpy(self.items[self.ends[users] - 1])]
            ranks = (logits >= wanted[:, None]).sum(dim=1).double()
            found = (ranks <= CUT_OFF) & torch.isfinite(wanted)
            gains += float((found / torch.log2(1.0 + ranks)).sum())
            odds = (wanted - logits.logsumexp(dim=1))[torch.isfinite(wanted)]  # else it was taken before
            likely += float(odds.double().sum())
        return gains / len(self.asked), likely / len(self.asked)

    def _weights(self) -> dict[str, Tensor]:
        return {name: one.detach().cpu().clone() for name, one in self.network.state_dict().items()}

    def _write(self, state: _State) -> None:
        if self.checkpoint is None:
            return
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        part = self.checkpoint.with_name(f"{self.checkpoint.name}.part")
        torch.save(
            {
                **self.about,
                "settings": asdict(self.settings),
                **state._asdict(),
                "weights": self._weights(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
            part,
        )
        part.replace(self.checkpoint)

    def _read(self) -> _State | None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        found = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if found.get("digest") != self.about.get("digest"):
            raise ConfigError(
                f"{self.checkpoint} is of a training with other settings or on another log; name another file, or "
                "remove this one"
            )
        self.network.load_state_dict(found["weights"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.schedule.load_state_dict(found["schedule"])
        return _State(*(found[name] for name in _State._fields))


def _padded(sequences: list[IntArray]) -> IntArray:
    """int64 [n, longest], zeros behind each sequence."""
    padded = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    for row, one in zip(padded, sequences, strict=True):
        row[: len(one)] = one
    return padded
