"""The settings of a recommender that anybody may give: one set of names in commands, arms, adapters, recipes, Python.

What is not given is None, and is taken from the adapter's record, else from `RecommenderConfig`, the one place where
defaults stand. The same settings in each place:

    llmgen recommend --prompt next_item --prior transition=1.0 --lm-weight 0.1
    llmgen ab --arm "A=--prompt next_item --prior transition=1.0 --lm-weight 0.1"
    arms: {A: {prompt: next_item, priors: {transition: 1.0}, lm_weight: 0.1}}
    Recommender(catalog, engine, prompt="next_item", priors=[Transition.fit(log, catalog)], lm_weight=0.1)

An option that can be repeated has the singular, `--prior`; the setting that it fills has the plural, `priors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from llmgen.recommend.config import Decoding, RecommenderConfig
from llmgen.recommend.request_weight import LMWeight
from llmgen.search import Normalise

PriorValue = bool | int | float | str
PriorSettings = Mapping[str, float | Mapping[str, PriorValue] | None]
"""Name of a prior -> its weight, or the settings of its fit, `weight` among them."""


class CommonSettings(BaseModel):
    """All settings but the model's weight, which an arm may leave to validation.

    Attributes:
        engine: See `llmgen.engines.load_engine`; `none` leaves all to the priors.
        adapter: A PEFT adapter for the model.
        label: How prompts and answers write an item, such as `{title} ({year})`; by default as the adapter was tuned
            on, else the catalog's way.
        identifier: How the model spells items, see `llmgen.identifiers.named.identified`; by default as the adapter was
            tuned on, else by titles.
        prompt: Name of a prompt template, or several for different tasks; the adapter's own by default.
        prompt_folder: Where your own templates lie.
        priors: Name -> weight, or the settings of its fit, `weight` among them; see `llmgen priors`.
        rating_priors: Name -> weight, of the priors of ratings.
        rating_lm_weight: Weight of the language model in a rating.
        decoding: How answers become items: `trie`, `raw` or `free`, see `RecommenderConfig`; the adapter's own by
            default.
        normalise: Among which children a node's probability is shared: those of the whole `catalog`, or the `eligible`.
        num_beams: Nodes of the trie that a round opens.
        exact: Go on until the answer is proven to be the best.
        max_history: So many of the newest items of the history stand in the prompt; the adapter's own by default.
        align_prompts: Cut prompts to whole blocks of the KV cache.
        think_tokens: Tokens that a model which can think may think for before it answers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str = "hf"
    adapter: str | None = None
    label: str | None = None
    identifier: str | None = None
    prompt: str | tuple[str, ...] = ()
    prompt_folder: Path | None = None
    priors: PriorSettings | None = None
    rating_priors: Mapping[str, float] | None = None
    rating_lm_weight: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    decoding: Decoding | None = None
    normalise: Normalise | None = None
    num_beams: int | None = Field(default=None, ge=1)
    exact: bool | None = None
    max_history: int | None = Field(default=None, ge=0)
    align_prompts: bool | None = None
    think_tokens: int | None = Field(default=None, ge=0)

    @classmethod
    def flags(cls) -> frozenset[str]:
        """The settings that are true or false."""
        return frozenset(name for name, one in cls.model_fields.items() if one.annotation in (bool, bool | None))

    @property
    def prompts(self) -> tuple[str, ...]:
        """The names of the templates, one or several."""
        return ((self.prompt,) if self.prompt else ()) if isinstance(self.prompt, str) else self.prompt

    def replace(self, **settings: object) -> Self:
        """The same with other settings.

        Raises:
            ValueError: There is no such setting, or a value is of the wrong kind or out of range.
        """
        return self.model_validate({**{name: getattr(self, name) for name in self.model_fields_set}, **settings})

    def config(self, below: CommonSettings | None = None, **chosen: object) -> RecommenderConfig:
        """As what answers has them.

        Args:
            below: Where a setting is looked up that is not given here, such as an adapter's.
            chosen: Fields of `RecommenderConfig` that are looked up nowhere.
        """
        found: dict[str, object] = {}
        for one in (self,) if below is None else (below, self):
            for name in RecommenderConfig.names():
                if name != "prompt" and (value := getattr(one, name, None)) is not None:
                    found[name] = value
        return RecommenderConfig().replace(**{**found, **chosen})


class GivenSettings(CommonSettings):
    """All settings of a recommender.

    Attributes:
        lm_weight: Weight of the model in the score. By default 1 where no prior answers the query; beside one that
            does, the weight that the adapter was tuned for, and a small one without an adapter. A mapping, or the
            name of a JSON file, is a weight for each request, see `llmgen.recommend.request_weight`.
    """

    lm_weight: LMWeight | None = None


def prior_settings(priors: PriorSettings) -> dict[str, dict[str, PriorValue]]:
    """Name -> settings of the fit of each prior, where a bare number is the weight."""
    return {
        name: dict(given) if isinstance(given, Mapping) else {} if given is None else {"weight": given}
        for name, given in priors.items()
    }
