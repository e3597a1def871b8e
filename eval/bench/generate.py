"""A language model as users of transformers run it: constrained beams, free beams, greedy decoding, reading alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils.logging import disable_progress_bar

from eval.bench.agreement import Found
from eval.bench.dicts import DictTrie
from llmgen.models import demo_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Prompt = Sequence[int]


class Loaded(NamedTuple):
    """A model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class Beginning(NamedTuple):
    """What some prompts share, read once: its length, and keys and values of each layer, [1, heads, tokens, size]."""

    length: int
    layers: list[tuple[Tensor, Tensor]]


def load(source: str | None = None, *, dtype: str = "float32", device: str = "cpu") -> Loaded:
    """A model, SmolLM2-135M by default.

    Raises:
        EngineUnavailableError: See `llmgen.models.demo_model`.
    """
    name = str(demo_model()) if source is None else source
    disable_progress_bar()  # of reading weights from the disk
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype))
    return Loaded(model.to(device).eval(), AutoTokenizer.from_pretrained(name))


@torch.inference_mode()
def constrained(
    loaded: Loaded, prompts: Sequence[Prompt], trie: DictTrie, *, width: int, k: int, longest: int, end: int
) -> list[Found]:
    """The k best paths of a beam search in which `prefix_allowed_tokens_fn` allows the trie's tokens only.

    Args:
        loaded: The model.
        prompts: Read together, padded at the left.
        trie: Of the items' paths.
        width: Beams.
        k: At most the width.
        longest: Tokens of the longest path.
        end: The token with which every path ends.
    """
    ids, mask = _padded(loaded, prompts)
    start = ids.shape[1]

    def allowed(batch: int, sequence: Tensor) -> list[int]:
        return trie.children(sequence[start:].tolist()) or [end]

    output = _generates(loaded)(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=longest,
        num_beams=width,
        num_return_sequences=k,
        do_sample=False,
        length_penalty=0.0,  # a sum, not a mean a token
        prefix_allowed_tokens_fn=allowed,
        eos_token_id=end,
        pad_token_id=end,
        return_dict_in_generate=True,
        output_scores=True,
    )
    answers: list[Found] = []
    scores = output.sequences_scores.tolist()
    for number, row in enumerate(output.sequences[:, start:].tolist()):
        if number % k == 0:
            answers.append({})
        path = tuple(row[: row.index(end) + 1]) if end in row else tuple(row)
        if scores[number] > -1e8:  # less are beams that no item was left for
            answers[-1][path] = scores[number]
    return answers


@torch.inference_mode()
def beams(loaded: Loaded, prompts: Sequence[Prompt], *, width: int, tokens: int, end: int) -> list[list[str]]:
    """What an unconstrained beam search writes, `width` texts a prompt."""
    ids, mask = _padded(loaded, prompts)
    written = _generates(loaded)(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=tokens,
        num_beams=width,
        num_return_sequences=width,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )
    texts = loaded.tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
    return [list(texts[start : start + width]) for start in range(0, len(texts), width)]


@torch.inference_mode()
def greedy(loaded: Loaded, prompts: Sequence[Prompt], *, tokens: int, end: int) -> None:
    """Write exactly so many tokens behind each prompt."""
    ids, mask = _padded(loaded, prompts)
    _generates(loaded)(
        input_ids=ids,
        attention_mask=mask,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )


@torch.inference_mode()
def read(loaded: Loaded, prompts: Sequence[Prompt], beginning: Beginning | None = None) -> None:
    """Read prompts and no more; with a beginning, only what stands behind it."""
    shared = 0 if beginning is None else beginning.length
    rest = [prompt[shared:] for prompt in prompts]
    longest = max(map(len, rest))
    ids = torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in rest])
    layers = [] if beginning is None else beginning.layers
    cache = DynamicCache(
        [(k.expand(len(rest), -1, -1, -1), v.expand(len(rest), -1, -1, -1)) for k, v in layers] or None
    )
    positions = torch.arange(shared, shared + longest).expand(len(rest), -1)
    _body(loaded)(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)


@torch.inference_mode()
def beginning_of(loaded: Loaded, prompts: Sequence[Prompt]) -> Beginning:
    """Read what all prompts begin with."""
    shortest = min(map(len, prompts)) - 1
    length = next((i for i in range(shortest) if len({prompt[i] for prompt in prompts}) > 1), shortest)
    output = _body(loaded)(input_ids=torch.tensor([list(prompts[0][:length])]), use_cache=True)
    return Beginning(length, [(layer.keys, layer.values) for layer in output.past_key_values.layers])


def _padded(loaded: Loaded, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[*[0] * (longest - len(prompt)), *prompt] for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids.to(loaded.model.device), mask.to(loaded.model.device)


def _generates(loaded: Loaded) -> Callable[..., Any]:
    generate: Callable[..., Any] = loaded.model.generate  # type: ignore[assignment]  # typed as a module's attribute
    return generate


def _body(loaded: Loaded) -> Callable[..., Any]:
    model: Any = loaded.model
    body: Callable[..., Any] = model.get_decoder()
    return body
