"""How the network of sequences is trained: batches, the schedule of the learning rate, early stopping."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from llmgen.errors import ConfigError
from llmgen.priors.interactions import Sequences
from llmgen.priors.network import CELLS, FULL_ITEMS, NEGATIVES, Network, Settings, Window, padded, softmax_loss, windows
from llmgen.progress import Stage
from llmgen.types import FloatArray

logger = logging.getLogger(__name__)


WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""


CUT_OFF = 10
"""Of NDCG in early stopping."""


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
            (loss / len(targets)).backward()
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
        taken = padded([self.items[one.start : one.end - 1] for one in batch])
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
