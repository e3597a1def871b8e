"""Write an adapter again in half precision, with nothing beside it but what serving needs: to hand it on.

llmgen shrink runs/demo-adapter demo-adapter
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from llmgen.adapters import AdapterRecord
from llmgen.errors import ConfigError, LLMGenError
from llmgen.training.tuned_folders import checked_dtype, tuned_folder

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"


def shrink(adapter: Path, target: Path, *, dtype: str = "float16") -> None:
    """Write weights, configuration, record, card and identifier of an adapter; the target is whole or not there at all.

    Checkpoints, optimiser states and settings of the run stay behind, and so does the tokenizer, which is the base
    model's. Where the configuration has a folder of this machine as its base model, the record's name of that model
    takes its place; `llmgen merge` knows the demo model by that name, and is told of others by `--base`.

    Args:
        adapter: Folder of a PEFT adapter.
        target: A folder that does not exist yet.
        dtype: Of the weights: float16, bfloat16 or float32. float16 has 11 bits where bfloat16 has 8, and adapters
            have no values near its limit of 65,504.

    Raises:
        ConfigError: There is no adapter, it has tokens of its own, a weight is too large for the dtype, or the target
            exists.
    """
    small_type = checked_dtype(target, dtype)
    try:
        config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(adapter / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{adapter} holds no adapter of PEFT: {error}") from error
    if config.get("trainable_token_indices"):
        raise ConfigError(f"{adapter} has tokens of its own, which need its tokenizer: copy the folder as it is")
    small = {name: weight.to(small_type).contiguous() for name, weight in weights.items()}
    if large := [name for name, weight in small.items() if not bool(torch.isfinite(weight).all())]:
        raise ConfigError(f"{large[0]} has values that {dtype} cannot hold; take --dtype bfloat16")
    record = AdapterRecord.read(adapter)
    if record is not None and Path(str(config.get("base_model_name_or_path"))).is_absolute():
        config["base_model_name_or_path"] = record.base_model
    with tuned_folder(target, adapter, record) as made:
        (made / WEIGHTS).write_bytes(save(small, metadata={"format": "pt"}))  # `save_file` lets nobody else read it
        (made / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        if (adapter / CARD).exists():
            shutil.copy(adapter / CARD, made / CARD)


def main(
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter.")],
    target: Annotated[Path, typer.Argument(help="New folder for the smaller one.")],
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
) -> None:
    """Write an adapter again in half precision, without what only its training needed."""
    console = Console(stderr=True)
    try:
        shrink(adapter, target, dtype=dtype)
    except LLMGenError as error:
        console.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    console.print(f"wrote {target}, {size / 1e6:.1f} MB; use it as --adapter {target}", highlight=False)
