"""What stands beside a tuned adapter: how it was made, and how it wants to be served."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmgen.errors import ConfigError

FILE = "llmgen.json"

Loss = Literal["catalog", "residual", "lm"]


class AdapterRecord(BaseModel):
    """The file `llmgen.json` in an adapter's folder.

    Attributes:
        base_model: Folder or hub name of the model that the adapter belongs to.
        loss: What was minimised: `catalog`, the softmax over the trie's children; `residual`, the same with the prior
            in it; `lm`, the plain loss over the whole vocabulary.
        lm_weight: Weight of the model beside priors, from validation where there was one, else as it was trained.
        prompt: Name of the template to recommend with.
        max_history: Newest items that stood in its prompts at most.
        label: How its prompts and answers wrote an item, see `Catalog`; empty in older records.
        priors: Name -> settings of the fit of those it was tuned beside, `weight` among them; empty without any.
        decoding: How model and priors are multiplied, see `llmgen.search`.
        prompts: `name@digest` of all templates that were trained on.
        catalog: Digest of the catalog.
        tokenizer: Digest of the tokenizer.
        data: Digest of the interactions.
        seed: Of the run.
        steps: Optimiser steps done.
        versions: Package -> version.
        metrics: Of the last validation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_model: str
    loss: Loss
    lm_weight: float = Field(ge=0)
    prompt: str
    max_history: int = Field(ge=0)
    label: str = ""
    priors: Mapping[str, Mapping[str, int | float | str]] = {}
    decoding: Literal["trie", "fused"] = "trie"
    prompts: tuple[str, ...]
    catalog: str
    tokenizer: str
    data: str
    seed: int
    steps: int = 0
    versions: Mapping[str, str] = {}
    metrics: Mapping[str, float] = {}

    @classmethod
    def read(cls, folder: Path | str) -> AdapterRecord | None:
        """The record of a folder; None where there is none, as for adapters that others made.

        Raises:
            ConfigError: The file is there and broken.
        """
        path = Path(folder) / FILE
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return cls.model_validate(json.loads(text))
        except (json.JSONDecodeError, ValidationError) as error:
            raise ConfigError(f"{path} is no record of an adapter: {error}") from error

    def write(self, folder: Path | str) -> None:
        """Put the record into a folder."""
        text = json.dumps(self.model_dump(mode="json"), indent=1) + "\n"
        (Path(folder) / FILE).write_text(text, encoding="utf-8")

    def differences(self, *, catalog: str, tokenizer: str, prompts: Iterable[str]) -> list[str]:
        """What is not as it was in training, one sentence each; empty if all is.

        Args:
            catalog: Digest of the catalog that is served.
            tokenizer: Digest of the tokenizer that is used.
            prompts: `name@digest` of the templates that are used.
        """
        found = []
        if catalog != self.catalog:
            found.append(f"it was tuned on the catalog {self.catalog}, and this is {catalog}")
        if tokenizer != self.tokenizer:
            found.append(f"it was tuned with the tokenizer {self.tokenizer}, and this is {tokenizer}")
        for prompt in sorted(set(prompts) - set(self.prompts)):
            found.append(f"it was not tuned on the prompt {prompt}, but on {', '.join(self.prompts)}")
        return found
