"""Write an adapter again in half precision, with nothing beside it but what serving needs: to hand it on.

llmgen shrink runs/demo-adapter demo-adapter
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from llmgen.adapters import IDENTIFIER, AdapterRecord
from llmgen.errors import ConfigError, LLMGenError

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"


def shrink(adapter: Path, target: Path, *, dtype: str = "float16") -> None:
    """Write weights, configuration, record, card and identifier of an adapter; the target is whole or not there at all.

    Checkpoints, optimiser states and settings of the run stay behind, and so does the tokenizer, which is the base
    model's. Where the configuration has a folder of this machine as its base model, the record's name of that model
    takes its place. So `llmgen merge` takes the folder of the run, and not this one.

    Args:
        adapter: Folder of a PEFT adapter.
        target: A folder that does not exist yet.
        dtype: Of the weights: float16, bfloat16 or float32. float16 has 11 bits where bfloat16 has 8, and adapters
            have no values near its limit of 65,504.

    Raises:
        ConfigError: There is no adapter, it has tokens of its own, a weight is too large for the dtype, or the target
            exists.
    """
    if target.exists():
        raise ConfigError(f"{target} exists; name a new folder, or remove it")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype must be float32, bfloat16 or float16, not {dtype!r}")
    try:
        config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(adapter / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{adapter} holds no adapter of PEFT: {error}") from error
    if config.get("trainable_token_indices"):
        raise ConfigError(f"{adapter} has tokens of its own, which need its tokenizer: copy the folder as it is")
    small = {name: weight.to(getattr(torch, dtype)).contiguous() for name, weight in weights.items()}
    if large := [name for name, weight in small.items() if not bool(torch.isfinite(weight).all())]:
        raise ConfigError(f"{large[0]} has values that {dtype} cannot hold; take --dtype bfloat16")
    record = AdapterRecord.read(adapter)
    if record is not None and Path(str(config.get("base_model_name_or_path"))).is_absolute():
        config["base_model_name_or_path"] = record.base_model
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    try:
        made = part / target.name
        made.mkdir()
        (made / WEIGHTS).write_bytes(save(small, metadata={"format": "pt"}))  # `save_file` lets nobody else read it
        (made / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        if record is not None:
            record.write(made)
        if (adapter / CARD).exists():
            shutil.copy(adapter / CARD, made / CARD)
        if (adapter / IDENTIFIER).is_dir():
            shutil.copytree(adapter / IDENTIFIER, made / IDENTIFIER)
        made.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
