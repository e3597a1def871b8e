"""A small causal language model made from texts, for machines on which no other can be trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OFTEN = 100
"""How often the words of prompts count for the tokenizer, so that it has a token for each of them."""


def new_model(
    texts: Sequence[str],
    prompts: Sequence[str],
    folder: Path,
    *,
    hidden: int = 128,
    layers: int = 4,
    vocabulary: int = 2048,
    seed: int = 0,
) -> None:
    """Write a Llama with random weights, and a byte-level BPE tokenizer trained on texts, into a folder.

    Args:
        texts: What is to be written in few tokens: titles.
        prompts: Constant texts that stand around them; none where their length does not matter.
        folder: Is made where it is missing.
        hidden: Width; heads have 32 numbers each.
        layers: Of the model.
        vocabulary: Tokens at most, those of the chat and the 256 bytes among them.
        seed: Of the weights; the tokenizer is the same with any.
    """
    bpe: Any = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, *[*prompts] * OFTEN], trainer)
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=bpe, eos_token=SPECIAL[2], pad_token=SPECIAL[0], additional_special_tokens=[SPECIAL[1]]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    heads = max(1, hidden // 32)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    llama: Any = LlamaForCausalLM
    llama(config).save_pretrained(folder)
