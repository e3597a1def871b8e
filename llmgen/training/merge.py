"""Merge an adapter into its base model: one folder that any server loads.

llmgen merge runs/ml-100k runs/ml-100k-merged
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from peft import PeftModel
from rich.console import Console
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmgen.adapters import AdapterRecord
from llmgen.errors import ConfigError, LLMGenError
from llmgen.models import NAME, demo_model
from llmgen.training.tuned_folders import checked_dtype, tuned_folder

CONFIG, TOKENIZER = "adapter_config.json", "tokenizer_config.json"


def merge(adapter: Path, target: Path, *, dtype: str = "float32", base: str | None = None) -> None:
    """Write the merged model, its tokenizer and the adapter's record; the target is there whole or not at all.

    Args:
        adapter: Folder of a PEFT adapter, as a run or `llmgen shrink` wrote it.
        target: A folder that does not exist yet.
        dtype: Of the weights: float32, bfloat16 or float16.
        base: Folder or hub name of the base model; by default as the adapter names it. The demo model is known by its
            name, and fetched where it is not there yet.

    Raises:
        ConfigError: The adapter cannot be loaded or merged, its base model cannot, or the target exists.
    """
    merged_type = checked_dtype(target, dtype)
    record = AdapterRecord.read(adapter)
    source, revision = (base, None) if base else _named_base(adapter)
    if source == NAME:
        source = str(demo_model())
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=merged_type, revision=revision)
        if (adapter / TOKENIZER).exists():
            tokenizer = AutoTokenizer.from_pretrained(adapter)
        else:
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except (OSError, SafetensorError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"cannot load {source!r}, the base model of the adapter {adapter}; name its folder with --base ({first})"
        ) from error
    try:
        if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:  # tokens of the adapter's own
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except AttributeError:
        raise ConfigError(
            f"{adapter} holds an adapter of a kind that cannot be merged; serve it beside its base"
        ) from None
    except (
        OSError,
        RuntimeError,
        SafetensorError,
        ValueError,
    ) as error:  # RuntimeError: made for a model of another size
        raise ConfigError(f"cannot load the adapter {adapter} for the model {source}: {error}") from error
    with tuned_folder(target, adapter, record) as made:
        merged.save_pretrained(made)
        tokenizer.save_pretrained(made)


def _named_base(adapter: Path) -> tuple[str, str | None]:
    """Folder or hub name of the base model, and its revision there, as the adapter's configuration has them.

    Raises:
        ConfigError: There is no adapter, or it names none.
    """
    try:
        config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
        name = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{adapter} holds no adapter of PEFT that names its base model: {error!r}") from error
    if not isinstance(name, str) or not name:
        raise ConfigError(f"the adapter {adapter} does not name its base model; name its folder with --base")
    return name, config.get("revision")


def main(
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter.")],
    target: Annotated[Path, typer.Argument(help="New folder for the merged model.")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    base: Annotated[
        str | None, typer.Option(help="Folder or hub name of the base model. Default: as the adapter names it.")
    ] = None,
) -> None:
    """Merge an adapter into its base model."""
    console = Console(stderr=True)
    try:
        with console.status("merging"):
            merge(adapter, target, dtype=dtype, base=base)
    except LLMGenError as error:
        console.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    console.print(f"wrote {target}; use it as --engine hf:{target} or --engine vllm:{target}", highlight=False)
