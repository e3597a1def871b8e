"""Tokens of their own for items: put into a tokenizer and a model, and where their embeddings start."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import peft
import torch
from numpy.typing import NDArray
from peft.utils.other import TrainableTokensWrapper
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError
from llmgen.identifiers import Codes
from llmgen.vectors.encoders import Float32Array

RIDGE = 1e-3
"""Of the regression, as a share of the largest variance of a direction."""


def add_item_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, catalog: Catalog) -> list[int]:
    """Give a model the tokens that its catalog is spelled in; those that it has already keep their embeddings.

    Of codes, an embedding starts where the centroid lies: the item vectors are mapped into the space of the embeddings
    by ridge regression, from what the centroids of an item add up to, to the mean embedding of its label's tokens. Each
    is as far from the mean of the vocabulary as its tokens are on average. Tokens that stand for no centroid start in
    random directions.

    Args:
        model: Its embeddings grow by the new tokens.
        tokenizer: The model's.
        catalog: With the identifier.

    Returns:
        Ids of all tokens of the identifier; empty where items are spelled in words.
    """
    wanted = () if catalog.identifier is None else catalog.identifier.tokens
    if not wanted:
        return []
    known = tokenizer.get_vocab()
    new = [token for token in wanted if token not in known]
    # no special tokens: they are what an answer is made of
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in new])
    plain: Any = model
    if len(tokenizer) > plain.get_input_embeddings().weight.shape[0]:
        plain.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = cast(list[int], tokenizer.convert_tokens_to_ids(list(wanted)))
    if new:
        fresh = set(new)
        rows = [number for number, token in enumerate(wanted) if token in fresh]
        before = min(ids[row] for row in rows)
        tables = {id(one.weight): one.weight for one in (plain.get_input_embeddings(), plain.get_output_embeddings())}
        for weight in tables.values():
            start = _start(weight, tokenizer, catalog, before)
            with torch.no_grad():
                weight[torch.tensor([ids[row] for row in rows])] = start[rows].to(weight)
    return ids


def with_item_tokens(model: PreTrainedModel, config: Any, ids: Sequence[int]) -> PreTrainedModel:
    """A model with an adapter that trains the embeddings of some tokens too, also those of an output layer of its own.

    Args:
        model: With embeddings for them.
        config: Of the adapter, as PEFT has it.
        ids: Of the tokens, at least one.

    Raises:
        ConfigError: The method cannot.
    """
    if not hasattr(config, "trainable_token_indices"):
        raise ConfigError(
            f"peft: {config.peft_type.value} trains no embeddings, and codes of items need some; take LORA, or {{}} to "
            "tune all weights"
        )
    plain: Any = model
    names = {id(module): name for name, module in plain.named_modules()}
    layers = (plain.get_input_embeddings(), plain.get_output_embeddings())
    tied = layers[0].weight is layers[1].weight
    config.trainable_token_indices = {names[id(one)]: list(ids) for one in layers[: 1 if tied else 2]}
    tuned: Any = peft.get_peft_model(model, config)
    # else PEFT saves the embeddings of the whole vocabulary, since there are more than the base model has
    tuned.save_pretrained = partial(tuned.save_pretrained, save_embedding_layers=False)
    result: PreTrainedModel = tuned
    return result


def head_rows(head: nn.Module, tokens: Tensor) -> Tensor | None:
    """Rows of an output layer, of which some may be trained apart; None where it is none that can be read by rows."""
    if type(head) is nn.Linear:
        return head.weight[tokens]
    if not isinstance(head, TrainableTokensWrapper):
        return None
    apart: Any = head.token_adapter
    rows: Tensor = apart.get_base_layer().weight[tokens]
    for adapter in apart.active_adapters:
        ids = torch.tensor(apart.token_indices[adapter], device=tokens.device)
        places = torch.full((int(max(ids.max(), tokens.max())) + 1,), -1, device=tokens.device)
        places[ids] = torch.arange(len(ids), device=tokens.device)
        mine = places[tokens]
        own = apart.trainable_tokens_delta[adapter].to(rows)[mine.clamp(min=0)]
        rows = torch.where((mine >= 0)[:, None], own, rows)
    return rows


def _start(weight: Tensor, tokenizer: PreTrainedTokenizerBase, catalog: Catalog, words: int) -> Tensor:
    """Where the rows of the identifier's tokens start, float32 [n_tokens, hidden]; `words`: rows of other tokens."""
    table: Float32Array = weight.detach()[:words].float().cpu().numpy()
    mean = table.mean(axis=0)
    apart = float(np.linalg.norm(table - mean, axis=1).mean())
    identifier = catalog.identifier
    assert identifier is not None  # it has tokens
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((len(identifier.tokens), table.shape[1]))
    if isinstance(identifier, Codes):
        books = np.nan_to_num(identifier.codebooks).reshape(-1, identifier.codebooks.shape[2]).astype(np.float64)
        mapped = books @ _map(identifier, catalog, table, tokenizer)
        stands = np.abs(mapped).sum(axis=1) > 0
        directions[: len(books)][stands] = mapped[stands]
    directions *= apart / np.linalg.norm(directions, axis=1, keepdims=True)
    return torch.from_numpy((mean + directions).astype(np.float32))


def _map(
    codes: Codes, catalog: Catalog, table: Float32Array, tokenizer: PreTrainedTokenizerBase
) -> NDArray[np.float64]:
    """From the space of the item vectors to that of embeddings, float64 [d, hidden]."""
    read = tokenizer(list(catalog.labels), add_special_tokens=False)["input_ids"]
    wanted = np.stack([table[ids].mean(axis=0) if ids else table.mean(axis=0) for ids in read]).astype(np.float64)
    depth = len(codes.codebooks)
    places = codes.codes(list(catalog))[:, :depth]
    given = sum(codes.codebooks[level][places[:, level]].astype(np.float64) for level in range(depth))
    given, wanted = np.asarray(given) - np.mean(given, axis=0), wanted - wanted.mean(axis=0)
    square = given.T @ given
    ridge = RIDGE * max(float(np.linalg.eigvalsh(square)[-1]), 1e-12)
    found: NDArray[np.float64] = np.linalg.solve(square + ridge * np.eye(len(square)), given.T @ wanted)
    return found
