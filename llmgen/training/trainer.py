"""CatalogTrainer: TRL's `SFTTrainer` with the loss over a catalog and validation through the search that serves."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from llmgen.adapters import FILE, IDENTIFIER, AdapterRecord
from llmgen.catalog.core import Identifier
from llmgen.errors import ConfigError, TrainingError
from llmgen.identifiers import save_identifier
from llmgen.progress import Stage
from llmgen.recommend.request_weight import RequestWeight
from llmgen.recommend.weighing import FittedWeight
from llmgen.training.answers import check_head, losses
from llmgen.training.batches import Batches, Plan
from llmgen.training.branches import check_branches

logger = logging.getLogger(__name__)

Measure = Callable[[PreTrainedModel], dict[str, float]]


class Told(TrainerCallback):
    """Tells in a log that is no terminal how far a run is; on a terminal transformers draws a bar."""

    def __init__(self) -> None:
        self._stage: Stage | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """The stage begins, after the steps of a run that is gone on with."""
        told = state.is_world_process_zero and not sys.stderr.isatty()
        self._stage = Stage("training, steps", state.max_steps - state.global_step, shown=told).__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """A step is done."""
        if self._stage is not None:
            self._stage.advance()

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """The stage ends."""
        self.end()

    def end(self) -> None:
        """Say nothing more, also of a run that an error ended."""
        if self._stage is not None:
            self._stage.__exit__(None, None, None)
            self._stage = None


class CatalogTrainer(SFTTrainer):
    """Trains on numbered examples.

    Args:
        model: With its adapter, or bare to tune all weights.
        args: TRL's settings; `max_steps` says how long.
        batches: Makes batches of example numbers.
        tokenizer: Of the model.
        record: What is written beside every checkpoint; steps, weight and metrics are filled in.
        lm_weight: Where the LM's weight beside the prior starts.
        lm_weight_rate: Learning rate of its logarithm; 0 holds it.
        identifier: How items are spelled, which is written beside the record; None for labels.
        measure: Validation; its numbers are logged, and checkpoints chosen, under `eval_` and their names.
        callbacks: As transformers has them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: SFTConfig,
        batches: Batches,
        tokenizer: PreTrainedTokenizerBase,
        record: AdapterRecord,
        *,
        lm_weight: float = 1.0,
        lm_weight_rate: float = 0.0,
        measure: Measure | None = None,
        identifier: Identifier | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        if args.max_steps < 1:
            raise ConfigError(f"max_steps must be 1 or more, not {args.max_steps}: examples are drawn, there is no end")
        args.remove_unused_columns = False
        args.train_sampling_strategy = "sequential"  # the examples are drawn at random already
        args.logging_nan_inf_filter = False
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        world = max(1, args.world_size)
        count = args.max_steps * args.per_device_train_batch_size * args.gradient_accumulation_steps * world
        self._told = Told()
        self._measure = measure
        self._record = record
        self._identifier = identifier
        self._lm_weight_rate = lm_weight_rate
        self._request_weight: RequestWeight | None = None
        super().__init__(
            model=model,
            args=args,
            data_collator=batches,
            train_dataset=Dataset.from_dict({"number": range(count)}),
            eval_dataset=Dataset.from_dict({"number": [0]}) if measure else None,
            processing_class=tokenizer,
            callbacks=[self._told, *(callbacks or ())],
        )
        self.log_lm_weight = nn.Parameter(torch.tensor(math.log(lm_weight), device=self.args.device))
        self.log_lm_weight.requires_grad_(lm_weight_rate > 0)
        self._tokens, self._since = 0, time.monotonic()
        check_head(cast(PreTrainedModel, self.model))
        if batches.soft is not None:
            check_branches(cast(PreTrainedModel, self.model))

    def train(self, *args: Any, **options: Any) -> Any:
        """See transformers; where it ends by an error, nothing more is told either."""
        try:
            return super().train(*args, **options)
        finally:
            self._told.end()

    @property
    def lm_weight(self) -> float:
        """The LM's weight beside the prior, as it stands."""
        return float(self.log_lm_weight.detach().exp())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean over the targets of a batch; nats of items count as often as the temperature says.

        Raises:
            TrainingError: It is not finite.
        """
        plan: Plan = inputs["plan"]
        inner = self.accelerator.unwrap_model(model)
        (found,) = losses(model, inputs["input_ids"], [(plan, self.log_lm_weight.exp())], inner=inner)
        loss = torch.cat([found.items * plan.temperature, found.texts]).mean() + 0.0 * self.log_lm_weight
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {float(loss.detach())} at step {self.state.global_step}; its checkpoints are whole: "
                "lower learning_rate, or set max_grad_norm"
            )
        metrics = self._metrics["train"]
        for name, values in zip(("nats_item", "nats_text"), found, strict=True):
            if len(values):
                metrics[name].append(float(values.detach().mean()))
        spoken = np.flatnonzero(~np.isnan(plan.prior_nats))
        if len(spoken):  # what the model adds to the prior: this, not the loss, tells whether it learns
            beside = found.items.detach().cpu().numpy()[spoken]
            metrics["gain_over_prior"].append(float((plan.prior_nats[spoken] - beside).mean()))
        self._tokens += plan.num_tokens
        return (loss, None) if return_outputs else loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """TRL's, and a group of its own for the LM's weight, which is no part of the model."""
        made = self.optimizer is not None
        optimizer = super().create_optimizer(*args, **kwargs)
        if not made and self._lm_weight_rate > 0:
            weight = self.log_lm_weight

            def share(*_: Any) -> None:
                if weight.grad is not None and self.args.world_size > 1:
                    torch.distributed.all_reduce(weight.grad)
                    weight.grad /= self.args.world_size

            def forget(*_: Any) -> None:
                weight.grad = None

            optimizer.register_step_pre_hook(share)
            optimizer.register_step_post_hook(forget)
            optimizer.add_param_group({"params": [self.log_lm_weight], "lr": self._lm_weight_rate, "weight_decay": 0.0})
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds tokens a second, and the LM's weight where it is learned."""
        if "loss" in logs:
            now = time.monotonic()
            logs["tokens_per_second"] = round(self._tokens / max(now - self._since, 1e-9), 1)
            self._tokens, self._since = 0, now
            if self._lm_weight_rate > 0:
                logs["lm_weight"] = self.lm_weight
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation through the search, instead of the loss on a data set."""
        if self._measure is None:
            return {}
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        with _as_served(model):
            found = {f"eval_{name}": value for name, value in self._measure(model).items()}
        model.train()
        self._since, self._tokens = time.monotonic(), 0
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        self._record = self._record.model_copy(update={"metrics": dict(found)})
        return found

    def fit_request_weight(self, fit: Callable[[PreTrainedModel], FittedWeight]) -> None:
        """Put a weight for each request into the record, in the place of the one for all.

        Args:
            fit: Of the model as it is served, see `Validation.request_weight`.
        """
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        with _as_served(model):
            fitted = fit(model)
        self._request_weight = fitted.weight
        found = {f"request_weight_{name}": getattr(fitted, name) for name in ("nats", "nats_constant", "nats_prior")}
        self._record = self._record.model_copy(update={"metrics": {**self._record.metrics, **found}})

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The adapter, its record, and how items are spelled."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir or ".")
            if self._identifier is not None:
                save_identifier(self._identifier, folder / IDENTIFIER)
            self.record().write(folder)

    def record(self) -> AdapterRecord:
        """The record of the run as it stands."""
        # not by nats: what is likeliest at every node says nothing of the search that multiplies whole titles
        weight = self._record.metrics.get("eval_lm_weight", self.lm_weight)
        asked = self._record.recommender.replace(lm_weight=self._request_weight or weight)
        return self._record.model_copy(update={"steps": self.state.global_step, "recommender": asked})

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `llmgen.training.card` writes ours once, at the end."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
        folder = Path(self.args.output_dir or ".") / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.is_dir():
            torch.save(self.log_lm_weight.detach().cpu(), folder / WHOLE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_lm_weight(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        best = self.state.best_model_checkpoint
        if best is not None:
            self._load_lm_weight(Path(best))
            stored = AdapterRecord.read(best)
            if stored is not None:
                self._record = stored

    def _load_lm_weight(self, folder: Path) -> None:
        with torch.no_grad():
            self.log_lm_weight.copy_(torch.load(folder / WHOLE, weights_only=True))


@contextmanager
def _as_served(model: nn.Module) -> Iterator[None]:
    """Without the autocast that accelerate puts around `forward` for training in bfloat16."""
    wrapped = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped


WHOLE = "lm_weight.pt"
"""Written last into a checkpoint: where it is, the checkpoint is whole."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; those that a stop or a full disk cut short are removed."""
    found = {
        int(path.name.partition("-")[2]): path
        for path in folder.glob("checkpoint-*")
        if path.name.partition("-")[2].isdigit()
    }
    for step in sorted(found, reverse=True):
        if (found[step] / WHOLE).exists() and (found[step] / FILE).exists():
            return found[step]
        logger.warning("%s was not finished and is removed", found[step])
        shutil.rmtree(found[step])
    return None
