"""What stands beside a tuned adapter: how it was made, and how it wants to be served."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError
from llmgen.identifiers.named import TITLE, identified, kind_of
from llmgen.recommend.settings import GivenSettings

FILE = "llmgen.json"
IDENTIFIER = "identifier"
"""Folder beside the record, of how items were spelled."""

OF_RECOMMENDER = ("lm_weight", "prompt", "max_history", "label", "priors", "decoding")
"""Settings that records of llmgen 0.1 have beside the others."""

FUSED = "fused"
"""A decoding of llmgen 0.1: model and prior were multiplied at every node of the trie."""
NO_FUSED = (
    "the adapter was to be asked with decoding 'fused', which is gone, as it ranked no better than 'trie'; it is asked "
    "with 'trie', for which another lm_weight may be best"
)

logger = logging.getLogger(__name__)

Loss = Literal["catalog", "residual", "lm"]


class AdapterRecord(BaseModel):
    """The file `llmgen.json` in an adapter's folder.

    Attributes:
        base_model: Folder or hub name of the model that the adapter belongs to.
        loss: What was minimised: `catalog`, the softmax over the trie's children; `residual`, the same with the prior
            in it; `lm`, the plain loss over the whole vocabulary.
        recommender: How it is asked, where nobody says otherwise: the prompt template, how many of the newest items its
            prompts show, how items were written, the priors that it was tuned beside, and its weight beside priors,
            chosen on validation where there was one. Older records, which have these settings beside the others, are
            read too.
        identifier: Kind of the identifier by which its items were spelled; `title` for labels. It lies beside the
            record, in the folder `identifier`.
        identifier_digest: Digest of that identifier; empty where items are spelled by their labels.
        prompts: `name@digest` of all templates that were trained on.
        catalog: Digest of the catalog.
        tokenizer: Digest of the tokenizer.
        data: Digest of the interactions.
        seed: Seed of the run.
        steps: Optimiser steps that were done.
        versions: Package -> its version at training.
        metrics: Metric -> its value in the last validation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_model: str
    loss: Loss
    recommender: GivenSettings = GivenSettings()
    identifier: str = TITLE
    identifier_digest: str = ""
    prompts: tuple[str, ...]
    catalog: str
    tokenizer: str
    data: str
    seed: int
    steps: int = 0
    versions: Mapping[str, str] = {}
    metrics: Mapping[str, float] = {}

    @model_validator(mode="before")
    @classmethod
    def _settings_apart(cls, value: Any) -> Any:
        """Records of llmgen 0.1 have the settings beside the others, and nothing of what is as by default."""
        if not isinstance(value, Mapping) or "recommender" in value:
            return value
        own = {name: value[name] for name in OF_RECOMMENDER if name in value}
        if own.get("decoding") == FUSED:
            del own["decoding"]
            logger.warning("%s", NO_FUSED)
        rest = {name: one for name, one in value.items() if name not in OF_RECOMMENDER}
        return {**rest, "recommender": {name: one for name, one in own.items() if one not in ("", {})}}

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
        text = json.dumps(self.model_dump(mode="json", exclude_unset=True), indent=1) + "\n"
        (Path(folder) / FILE).write_text(text, encoding="utf-8")

    def written(self, catalog: Catalog, adapter: Path | str) -> Catalog:
        """A catalog whose items are written and spelled as the adapter was tuned on.

        Args:
            catalog: The items.
            adapter: The folder of the record, in which an identifier lies too.

        Raises:
            DataError: The identifier is not there, or damaged.
        """
        label = self.recommender.label
        return self.spelled(catalog.labelled(label) if label else catalog, adapter)

    def spelled(self, catalog: Catalog, adapter: Path | str) -> Catalog:
        """A catalog whose items are spelled as the adapter was tuned on; see `written`."""
        return identified(catalog, self.beside(adapter))

    def beside(self, adapter: Path | str) -> str:
        """The name of its identifier, as settings have it."""
        return TITLE if self.identifier == TITLE else str(Path(adapter) / IDENTIFIER)

    def check_identifier(self, catalog: Catalog, adapter: Path | str) -> None:
        """Make sure that items are spelled as the adapter learned them.

        Raises:
            ConfigError: They are spelled in another way, which it cannot read.
        """
        kind, digest = kind_of(catalog)
        if digest == self.identifier_digest:
            return
        both = ((self.identifier, self.identifier_digest), (kind, digest))
        learned, served = (f"{name} ({of})" if of else name for name, of in both)
        raise ConfigError(
            f"the adapter {adapter} was tuned on items that are spelled by {learned}, and here they are spelled by "
            f"{served}: leave the identifier out, or give the adapter's own, --identifier {self.beside(adapter)}"
        )

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
