"""Merge an adapter into its base model: one folder that any server loads.

llmgen merge runs/ml-100k runs/ml-100k-merged
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from peft import AutoPeftModelForCausalLM
from rich.console import Console
from transformers import AutoTokenizer

from llmgen.adapters import IDENTIFIER, AdapterRecord
from llmgen.errors import ConfigError, LLMGenError


def merge(adapter: Path, target: Path, *, dtype: str = "float32") -> None:
    """Write the merged model, its tokenizer and the adapter's record; the target is there whole or not at all.

    Args:
        adapter: Folder of a PEFT adapter whose base model can be loaded here.
        target: A folder that does not exist yet.
        dtype: Of the weights: float32, bfloat16 or float16.

    Raises:
        ConfigError: The adapter cannot be loaded or merged, or the target exists.
    """
    if target.exists():
        raise ConfigError(f"{target} exists; name a new folder, or remove it")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype must be float32, bfloat16 or float16, not {dtype!r}")
    record = AdapterRecord.read(adapter)
    try:
        model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=getattr(torch, dtype))
        tokenizer = AutoTokenizer.from_pretrained(adapter)
        merged = model.merge_and_unload()
    except AttributeError:
        raise ConfigError(
            f"{adapter} holds an adapter of a kind that cannot be merged; serve it beside its base"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load the adapter {adapter}: {error}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    try:
        merged.save_pretrained(part / target.name)
        tokenizer.save_pretrained(part / target.name)
        if record is not None:
            record.write(part / target.name)
        if (adapter / IDENTIFIER).is_dir():
            shutil.copytree(adapter / IDENTIFIER, part / target.name / IDENTIFIER)
        (part / target.name).rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def main(
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter.")],
    target: Annotated[Path, typer.Argument(help="New folder for the merged model.")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Merge an adapter into its base model."""
    console = Console(stderr=True)
    try:
        with console.status("merging"):
            merge(adapter, target, dtype=dtype)
    except LLMGenError as error:
        console.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    console.print(f"wrote {target}; use it as --engine hf:{target} or --engine vllm:{target}", highlight=False)
