"""Fine-tune a model on a catalog and its log.

    llmgen train --config training/configs/ml-100k.yaml --output_dir runs/ml-100k

Settings are those of `llmgen.training.recipe.RecipeFlags` and of TRL's `SFTConfig`, from the file, with flags over
them. Started again with the same folder, a run goes on from its last checkpoint. The folder ends up holding the
adapter, its record `llmgen.json`, a model card and the resolved settings.

More than 400 lines: one run, from its settings to its folder, in the order in which it happens.
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import peft
import polars as pl
import torch
import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar
from trl.trainer.sft_config import SFTConfig

from llmgen.adapters import IDENTIFIER, AdapterRecord
from llmgen.catalog.core import Catalog
from llmgen.datasets import Dataset
from llmgen.datasets.splits import History, histories, leave_items_out, leave_one_out, log_digest, random_split
from llmgen.engines.hf import HFEngine
from llmgen.errors import ConfigError, LLMGenError
from llmgen.identifiers import save_identifier
from llmgen.identifiers.named import kind_of
from llmgen.priors import ExcludeSeen, Prior
from llmgen.priors.kinds import kind
from llmgen.progress import Stage
from llmgen.recommend.recommender import Recommender
from llmgen.recommend.settings import PriorSettings, prior_settings
from llmgen.templates.tasks import answers
from llmgen.training.batches import Batches
from llmgen.training.card import write_card
from llmgen.training.checks import check, peft_config
from llmgen.training.data import Mixture
from llmgen.training.item_tokens import add_item_tokens, with_item_tokens
from llmgen.training.loss import ItemPaths
from llmgen.training.parsing import parse
from llmgen.training.recipe import Recipe, folder_of
from llmgen.training.soft_targets import SoftTargets
from llmgen.training.trainer import CatalogTrainer, last_checkpoint
from llmgen.training.validation import Validation
from llmgen.types import Query

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "trl", "peft")


class Data(NamedTuple):
    """What a run sees.

    Attributes:
        dataset: All of it; only `known` is learned from.
        known: Interactions to learn from.
        queries: Of validation, one a user; none where nothing is held out for it.
        held_out: Id of each query's item.
    """

    dataset: Dataset
    known: pl.DataFrame
    queries: list[Query]
    held_out: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0, or 2 after an error that was told."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        recipe, args = parse(arguments)
        run(recipe, args)
    except LLMGenError as error:
        Console(stderr=True).print(Text.assemble(("error: ", "red"), str(error)), soft_wrap=True)
        return 2
    return 0


def run(recipe: Recipe, args: SFTConfig) -> AdapterRecord:
    """Train, or go on training, and write everything.

    Raises:
        LLMGenError: Settings, data or model are not what they should be, or the run cannot go on.
    """
    folder = folder_of(args.output_dir or "runs/sft")
    check(recipe)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    data = load(recipe)
    tasks = recipe.tasks
    first = next(iter(tasks.values()))
    torch.manual_seed(args.seed)
    model, tokenizer = load_model(recipe)
    catalog = data.dataset.catalog
    check_earlier_identifier(recipe, catalog)
    item_tokens = add_item_tokens(model, tokenizer, catalog)
    engine = HFEngine(model, tokenizer, max_tokens=recipe.max_tokens)
    recommender = Recommender(catalog, engine, max_history=max(task.max_history for task in tasks.values()))
    recommending = [task for task in tasks.values() if task.prompts and _recommends(recommender, task.prompts[0])]
    served = (recommending or [replace(first, prompts=("next_item",))])[0]
    asked = recipe.asked(served.prompts[0], served.max_history, catalog.label_format)
    fitted = fit(recipe.priors, data.known, data.dataset)
    batches = make_batches(recipe, args, data, recommender, fitted, pad=int(tokenizer.pad_token_id or 0))
    record = AdapterRecord(
        base_model=recipe.model or "SmolLM2-135M-Instruct",
        loss=recipe.loss,
        recommender=asked,
        identifier=kind_of(catalog)[0],
        identifier_digest=kind_of(catalog)[1],
        prompts=tuple(sorted({recommender.prompts[name].ref for task in tasks.values() for name in task.prompts})),
        catalog=catalog.digest,
        tokenizer=engine.tokenizer_digest,
        data=log_digest(data.known),
        seed=args.seed,
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
    )
    check_earlier(recipe, catalog, record.data)
    measure = None
    if (recipe.validation_users or recipe.nats_users) and data.queries:
        measure = Validation(
            catalog,
            fitted,
            data.queries,
            data.held_out,
            tokenizer,
            prompt=asked.prompts[0],
            max_history=asked.config().max_history,
            lm_weights=recipe.lm_weights,
            users=recipe.validation_users,
            nats_users=recipe.nats_users,
        )
    trainer = CatalogTrainer(
        wrap(model, recipe, item_tokens),
        args,
        batches,
        tokenizer,
        record,
        lm_weight=asked.config().usual_lm_weight,
        lm_weight_rate=recipe.lm_weight_rate,
        measure=measure,
        identifier=catalog.identifier,
    )
    first_process = trainer.is_world_process_zero()  # of several, one tells and writes
    if first_process:
        folder.mkdir(parents=True, exist_ok=True)
        settings = {**recipe.given, **args.to_dict()}
        if catalog.identifier is not None:  # one that cannot be saved is told before anything is trained
            save_identifier(catalog.identifier, folder / IDENTIFIER)
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=True, allow_unicode=True), "utf-8")
    last = last_checkpoint(folder)
    if last is not None and first_process:
        Console(stderr=True).print(f"going on from {last}", highlight=False)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if measure is not None and not args.load_best_model_at_end:
        trainer.evaluate()
    if recipe.request_weight and measure is not None:
        trainer.fit_request_weight(partial(measure.request_weight, log=histories(data.known, catalog=catalog)))
    trainer.save_model(str(folder))
    if not first_process:
        return trainer.record()
    validations = [entry for entry in trainer.state.log_history if "eval_ndcg" in entry or "eval_nats" in entry]
    _show(validations)
    write_card(folder, trainer.record(), data.dataset, len(data.known), validations, recipe.loss_as_told())
    return trainer.record()


def make_batches(
    recipe: Recipe, args: SFTConfig, data: Data, recommender: Recommender, fitted: Sequence[Prior], *, pad: int = 0
) -> Batches:
    """What makes the batches of a run.

    Args:
        recipe: Of the run.
        args: Of the run.
        data: What it learns from.
        recommender: Renders and tokenises.
        fitted: Priors of the recipe, fitted on all that is learned from.
        pad: See `Planner`.
    """
    catalog = recommender.catalog
    mixture = Mixture(
        recommender,
        histories(data.known, catalog=catalog),
        recipe.tasks,
        seed=args.seed,
        group=args.per_device_train_batch_size,
        dropout=recipe.item_dropout,
        order_noise=recipe.order_noise,
        folds=recipe.folds,
        likely=fitted,
    )
    crossed: Mapping[int, Sequence[Prior]] = {}
    softened = recipe.soft_targets
    if recipe.loss == "residual" or (softened and softened.source == "priors"):
        crossed = cross_fit(recipe, data, mixture.fold_of, fitted)
    soft = None
    if softened:
        taken = np.array(catalog.positions(data.known["item_id"].to_list()))
        soft = SoftTargets(softened, catalog, np.bincount(taken, minlength=len(catalog)), crossed)
    with Stage("making the trie", 0):
        trie = recommender.trie
    return Batches(
        mixture,
        ItemPaths(trie),
        recipe.loss,
        lines=ItemPaths.of_lines(recommender.parts.index),
        priors=crossed,
        prior_dropout=recipe.prior_dropout,
        temperature=recipe.loss_temperature,
        soft=soft,
        pad=pad,
    )


def _show(validations: Sequence[Mapping[str, float]]) -> None:
    """Tables of validations: a row a step, before and after among them."""
    tables = {
        "ndcg": "NDCG on validation users, LM x prior at each weight",
        "nats": "Nats an item on validation users, at the weight that is best",
    }
    titles = {"": "best", "prior": "prior alone", "lm": "LM alone", "weight": "LM's weight"}
    for measure, title in tables.items():
        start = f"eval_{measure}"
        names = list(dict.fromkeys(name for entry in validations for name in entry if name.startswith(start)))
        if not names:
            continue
        table = Table(title=title, title_justify="left", box=box.SIMPLE)
        table.add_column("step", justify="right")
        for name in names:
            rest = name.removeprefix(start).removeprefix("_")
            table.add_column(titles.get(rest, rest.replace("at_", "at ")), justify="right")
        for entry in validations:
            if start in entry:
                cells = (f"{entry[name]:.4g}" if name.endswith("_weight") else f"{entry[name]:.4f}" for name in names)
                table.add_row(f"{entry['step']:g}", *cells)
        Console().print(table)


def _recommends(recommender: Recommender, prompt: str) -> bool:
    """Whether a prompt is one to recommend with, of those that are there; what is wrong with others, `Mixture` says."""
    return prompt in recommender.prompts and answers(recommender.prompts[prompt].task) == "recommend"


def load(recipe: Recipe) -> Data:
    """The data, and what of it is held out."""
    dataset = recipe.data.load()
    if recipe.learn_from == "all":
        return Data(dataset, dataset.interactions, [], [])
    ties = recipe.ties
    if (out := recipe.leave_out) is not None:
        ids = dataset.catalog.ids
        try:
            left = leave_items_out(dataset.interactions, ids, share=out.share, seed=out.seed, last=out.last, ties=ties)
        except ValueError as error:
            raise ConfigError(f"leave_out: {error}; it takes share, seed and last") from None
        train, validation = left.train, left.validation
        known = pl.concat([train, validation])
        dataset = replace(dataset, catalog=dataset.catalog.without(left.items), interactions=known)
    else:
        train, validation, *_ = leave_one_out(dataset.interactions, ties=ties)
        if (held := recipe.hold_out) is not None:
            try:
                split = random_split(train, share=held.share, validation_share=held.validation_share, seed=held.seed)
            except ValueError as error:
                raise ConfigError(f"hold_out: {error}; it takes share, validation_share and seed") from None
            train = split.train
    if recipe.learn_from == "train+validation":
        return Data(dataset, pl.concat([train, validation]), [], [])
    past = histories(train, catalog=dataset.catalog)
    users, items = validation["user_id"].to_list(), validation["item_id"].to_list()
    nothing = History((), None)  # of a user all of whose log hold_out draws
    queries = [Query(past.get(user, nothing).items, user_id=user) for user in users]
    return Data(dataset, train, queries, items)


def load_model(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model and its tokenizer, in the recipe's precision or quantized as it says."""
    name = recipe.base_model()
    if not sys.stderr.isatty():
        disable_progress_bar()
    cuda = torch.cuda.is_available()
    device, precision = ("cuda", "bfloat16") if cuda else ("cpu", "float32")
    dtype = getattr(torch, recipe.dtype or precision)
    options: dict[str, Any] = {}
    if recipe.quantize:
        chosen = BitsAndBytesConfig(  # the settings of QLoRA (Dettmers et al., NeurIPS 2023)
            load_in_4bit=recipe.quantize == "4bit",
            load_in_8bit=recipe.quantize == "8bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        options = {"quantization_config": chosen, "device_map": {"": device}}
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **options)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except ImportError as error:
        if not recipe.quantize:
            raise
        raise ConfigError(f"quantize: {recipe.quantize} needs bitsandbytes; install llmgen[qlora] ({error})") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load the model {name!r}: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not recipe.quantize:  # else it is where it belongs, and must not be moved
        cast(torch.nn.Module, model).to(device)
    for module in model.modules():  # else they are packed for inference at the first question, and have no gradients
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  # for mypy, modules hold modules
    return cast(PreTrainedModel, model), tokenizer


def check_earlier(recipe: Recipe, catalog: Catalog, data: str) -> None:
    """Make sure that an adapter that is gone on with has not seen what this run leaves out.

    Args:
        recipe: Of the run.
        catalog: That it learns from; the earlier run may have written its items in another way.
        data: Digest of the interactions that it learns from.

    Raises:
        ConfigError: It may have.
    """
    setting = "leave_out" if recipe.leave_out else "hold_out" if recipe.hold_out else ""
    if not (recipe.adapter and setting):
        return
    earlier = AdapterRecord.read(recipe.adapter)
    if earlier is None or (earlier.data, earlier.catalog) != (data, earlier.written(catalog, recipe.adapter).digest):
        raise ConfigError(
            f"the adapter {recipe.adapter!r} did not learn from the same interactions and catalog as this run, so it "
            f"may have seen what {setting} takes out; go on from one that was tuned with the same data and {setting}"
        )


def check_earlier_identifier(recipe: Recipe, catalog: Catalog) -> None:
    """Make sure that an adapter that is gone on with has learned to spell items as this run does.

    Raises:
        ConfigError: It has not.
    """
    earlier = AdapterRecord.read(recipe.adapter) if recipe.adapter else None
    if earlier is not None:
        earlier.check_identifier(catalog, recipe.adapter)


def wrap(model: PreTrainedModel, recipe: Recipe, item_tokens: Sequence[int] = ()) -> PreTrainedModel:
    """The model with a fresh adapter or that of an earlier run, or as it is where all weights are tuned.

    Args:
        model: With embeddings for all tokens.
        recipe: Says how.
        item_tokens: Whose embeddings are trained too.
    """
    if recipe.quantize:
        prepare = cast(Callable[..., PreTrainedModel], peft.prepare_model_for_kbit_training)
        model = prepare(model, use_gradient_checkpointing=False)  # of which `SFTConfig` decides
    if recipe.adapter:
        try:
            tuned = peft.PeftModel.from_pretrained(model, recipe.adapter, is_trainable=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ConfigError(f"cannot go on from the adapter {recipe.adapter!r}: {error}") from error
        return cast(PreTrainedModel, tuned)
    if not recipe.peft:
        return model
    config = peft_config(recipe.peft)
    if item_tokens:
        return with_item_tokens(model, config, item_tokens)
    return cast(PreTrainedModel, peft.get_peft_model(model, config))


def fit(priors: PriorSettings, known: pl.DataFrame, dataset: Dataset) -> list[Prior]:
    """The priors of a recipe, which was checked, fitted on some interactions.

    Raises:
        ConfigError: A setting is out of range.
    """
    made: list[Prior] = []
    for name, settings in prior_settings(priors).items():
        try:
            made.append(kind(name).fit(known, dataset.catalog, **settings))
        except ValueError as error:
            raise ConfigError(f"prior {name}: {error}") from None
    return made


def cross_fit(
    recipe: Recipe, data: Data, fold_of: Mapping[str, int], fitted: Sequence[Prior]
) -> dict[int, Sequence[Prior]]:
    """Fold -> priors that were fitted without the users of the fold, else they would know the targets."""
    seen = ExcludeSeen(data.dataset.catalog)
    priors: dict[int, Sequence[Prior]] = {-1: (seen, *fitted)}
    for fold in sorted(set(fold_of.values())):
        inside = [user for user, number in fold_of.items() if number == fold]
        others = data.known.filter(~pl.col("user_id").is_in(inside))
        if others.is_empty():
            raise ConfigError(
                f"{len(fold_of)} users are too few for {recipe.folds} folds; cross-fitting needs 2 or more"
            )
        priors[fold] = (seen, *fit(recipe.priors, others, data.dataset))
    return priors
