"""Tokenizers that are made here, and do what those of well-known models do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def joining(model: Path) -> Any:
    """A model's tokenizer with the rules of Llama 3 and Qwen 2: `)` and a line break behind it are one token."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(model)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary[")Ċ"] = len(tokenizer)
    state["model"]["merges"].append([")", "Ċ"])
    pattern = r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, bytes_]}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    made.chat_template = tokenizer.chat_template
    return made


def sentencepiece(scheme: str, *, joins: bool = False) -> Any:
    """A tokenizer as Llama 2's: a space before every text, bytes for what it does not know, the line break among it.

    Where it joins, it knows line breaks and parentheses too, and `)` with a line break behind it is one token.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    pieces += [*map(chr, range(48, 58)), *map(chr, range(65, 91)), *map(chr, range(97, 123)), "\u2581A", "\u25815"]
    pieces += ["(", ")", "\n", ")\n"] if joins else []
    model = models.BPE(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[("\u2581", "A"), ("\u2581", "5"), *([(")", "\n")] if joins else [])],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    made = Tokenizer(model)
    if scheme == "legacy":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
