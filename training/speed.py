"""How fast a step of training is, beside plain TRL on the same texts.

    python -m training.speed --batches 8

Every loss does forward and backward passes over the same batches, in an order that is turned round each time, so that
a shared machine is as bad to all of them. Plain is `SFTTrainer` as TRL ships it, with the labels of the same targets.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from datasets import Dataset
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers.trainer_utils import IntervalStrategy
from trl.trainer.sft_trainer import SFTTrainer

from llmgen.datasets.splits import histories
from llmgen.engines.hf import HFEngine
from llmgen.recommend.recommender import Recommender
from llmgen.training import sft
from llmgen.training.answers import losses
from llmgen.training.batches import Batches
from llmgen.training.data import Example, Mixture
from llmgen.training.loss import ItemPaths
from llmgen.training.parsing import parse

PLAIN = "plain TRL"


def main(
    config: Annotated[Path, typer.Option(help="A recipe.")] = Path("training/configs/ml-100k.yaml"),
    batches: Annotated[int, typer.Option(min=2, help="How many are timed.")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the times here.")] = None,
) -> None:
    """Time, print and write."""
    with tempfile.TemporaryDirectory() as scratch:
        recipe, args = parse(["--config", str(config), "--output_dir", scratch])
        data = sft.load(recipe)
        model, tokenizer = sft.load_model(recipe)
        tasks = {"list": recipe.tasks["list"]}
        recommender = Recommender(
            data.dataset.catalog, HFEngine(model, tokenizer), max_history=tasks["list"].max_history
        )
        past = histories(data.known, catalog=data.dataset.catalog)
        fitted = sft.fit(recipe.priors, data.known, data.dataset)
        size = args.per_device_train_batch_size
        mixture = Mixture(recommender, past, tasks, group=size, folds=recipe.folds)
        crossed = sft.cross_fit(recipe, data, mixture.fold_of, fitted)
        paths = ItemPaths(recommender.trie)
        makers = {loss: Batches(mixture, paths, loss, priors=crossed) for loss in ("lm", "catalog", "residual")}
        tuned = sft.wrap(model, recipe)
        args.dataset_kwargs, args.remove_unused_columns = {"skip_prepare_dataset": True}, False
        args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
        rows = Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[1, 2]]})
        plain = SFTTrainer(model=tuned, args=args, train_dataset=rows, processing_class=tokenizer)
        steps: dict[str, Callable[[list[Example]], Tensor]] = {
            PLAIN: lambda examples: cast(Any, plain).compute_loss(
                tuned, _labelled(examples, makers["lm"].pad, model.device)
            )
        }
        for name, maker in makers.items():
            steps[name] = partial(_ours, tuned, maker)
        tuned.train()
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        tokens = []
        for number in track(range(batches + 1), "Timing"):
            examples = [mixture[number * size + place] for place in range(size)]
            for name in list(steps)[:: 1 if number % 2 else -1]:
                began = time.perf_counter()
                steps[name](examples).backward()
                tuned.zero_grad()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if number:  # the first one warms up
                    seconds[name].append(time.perf_counter() - began)
            if number:
                tokens.append(sum(len(example.input_ids) for example in examples))
    _report(seconds, tokens, json_file)


def _ours(model: torch.nn.Module, maker: Batches, examples: list[Example]) -> Tensor:
    batch = maker.batch(examples, [True] * len(examples))
    (found,) = losses(model, batch["input_ids"], [(batch["plan"], 0.3)])
    return torch.cat(found).mean()


def _labelled(examples: list[Example], pad: int, device: torch.device) -> dict[str, Any]:
    length = max(len(example.input_ids) for example in examples)
    ids, labels = torch.full((len(examples), length), pad), torch.full((len(examples), length), -100)
    for row, label, example in zip(ids, labels, examples, strict=True):
        row[: len(example.input_ids)] = torch.tensor(example.input_ids)
        for target in example.targets:
            label[target.start : target.end] = row[target.start : target.end]
    mask = torch.tensor([[place < len(example.input_ids) for place in range(length)] for example in examples])
    made = {"input_ids": ids, "labels": labels, "attention_mask": mask.long()}
    return {name: tensor.to(device) for name, tensor in made.items()}


def _report(seconds: dict[str, list[float]], tokens: list[int], json_file: Path | None) -> None:
    table = Table(title=f"{len(tokens)} batches of {np.mean(tokens):.0f} tokens")
    for heading in ("loss", "tokens/s", "time, of plain TRL's", "95 %"):
        table.add_column(heading)
    rng = np.random.default_rng(0)
    picked = rng.integers(len(tokens), size=(10_000, len(tokens)))
    plain = np.array(seconds[PLAIN])
    for name, values in seconds.items():
        mine = np.array(values)
        ratios = mine[picked].sum(axis=1) / plain[picked].sum(axis=1)
        low, high = np.percentile(ratios, [2.5, 97.5])
        table.add_row(
            name, f"{sum(tokens) / mine.sum():.0f}", f"{mine.sum() / plain.sum():.3f}", f"[{low:.3f}, {high:.3f}]"
        )
    Console(width=100).print(table)
    if json_file is not None:
        json_file.write_text(json.dumps({"tokens": tokens, "seconds": seconds}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
