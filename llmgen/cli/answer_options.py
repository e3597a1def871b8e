"""Options of the commands that answer: who asks, with which model, prompt, priors and search."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmgen.workspace.options import pair, read_priors, read_weights

if TYPE_CHECKING:
    from llmgen.types import Attribute


class DecodingChoice(StrEnum):
    """How an answer of the model becomes items."""

    trie = "trie"
    raw = "raw"
    free = "free"


class NormaliseChoice(StrEnum):
    """Among which children a node's probability is shared."""

    catalog = "catalog"
    eligible = "eligible"


UserOption = Annotated[str | None, typer.Option(help="A user of the log.")]


HistoryOption = Annotated[list[str] | None, typer.Option(help="An item id; repeat it, oldest first.")]


TextOption = Annotated[str | None, typer.Option(help="A wish in words.")]


FilterOption = Annotated[
    list[str] | None,
    typer.Option("--filter", help="attribute=value: only such items; a range as year=1990..1999. Repeatable."),
]


PriorOption = Annotated[
    list[str] | None,
    typer.Option(
        help="An item prior: name=weight, or name:setting=value,setting=value; `llmgen priors` lists the names. "
        "Repeatable; 'none': no priors."
    ),
]


ENGINES = (
    "What runs the language model: hf[:MODEL] or vllm[:MODEL] (without MODEL: SmolLM2-135M-Instruct), "
    "openai:URL[:MODEL], fake (made-up probabilities) or none (no model)."
)


EngineOption = Annotated[
    str,
    typer.Option(help=ENGINES),
]


PromptsOption = Annotated[Path | None, typer.Option("--prompt-folder", help="A folder with prompts of your own.")]


def checked_lm_weight(text: str) -> str:
    """The value of --lm-weight, looked at before anything is loaded."""
    from pydantic import ValidationError

    from llmgen.recommend.settings import GivenSettings

    try:
        GivenSettings.model_validate({"lm_weight": text})
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    return text


LMWeightOption = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|FILE",
        parser=checked_lm_weight,
        help="Weight of the language model in the score; 0: it is not asked. A JSON file: a weight for each request.",
    ),
]


RatingPriorOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A prior of ratings: rating_knn=weight, fitted where the log has ratings; 'none': no such prior."
    ),
]


RatingLMWeightOption = Annotated[
    float | None, typer.Option(min=0, help="Weight of the language model in a rating; 0: it is not asked.")
]


HistoryLengthOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="The prompt shows so many of the newest items of the history. Default: as the adapter was tuned, else 20.",
    ),
]


RunsOption = Annotated[Path, typer.Option(help="Folder for what you save on the page of the playground.")]


AlsoOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Another model that can be chosen on that page: hf:MODEL, or '--engine E --adapter FOLDER'. Repeatable."
    ),
]


AlignOption = Annotated[
    bool,
    typer.Option(
        "--align-prompts",
        help="Cut prompts to whole blocks of the KV cache: faster with vLLM, with up to a quarter less history.",
    ),
]


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def model_options(
    load: Annotated[
        Path | None, typer.Option(help="A folder that `llmgen fit` wrote, instead of data; nothing is fitted.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Name of a prompt template.")] = None,
    prompt_folder: PromptsOption = None,
    max_history: HistoryLengthOption = None,
    align_prompts: AlignOption = False,
    think_tokens: Annotated[
        int | None, typer.Option(min=0, help="A model that can think may write so many tokens before it answers.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help=f"{ENGINES} Default: hf, or the engine of --load.")] = None,
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter for the model.")] = None,
) -> dict[str, object]:
    """Which model, and what it reads."""
    return {
        "load": load,
        "prompt": prompt,
        "prompt_folder": prompt_folder,
        "max_history": max_history,
        "align_prompts": align_prompts or None,
        "think_tokens": think_tokens,
        "engine": engine,
        "adapter": adapter,
    }


def scoring_options(
    prior: PriorOption = None,
    lm_weight: LMWeightOption = None,
    decoding: Annotated[
        DecodingChoice | None,
        typer.Option(help="How answers become items. Default: as the adapter was tuned, else trie."),
    ] = None,
    normalise: Annotated[
        NormaliseChoice | None,
        typer.Option(
            help="Share probabilities among all items of the catalog, or only among those that may be recommended. "
            "Default: as in --load, else catalog."
        ),
    ] = None,
    num_beams: Annotated[int | None, typer.Option(min=1, help="Nodes of the trie that a round opens.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Go on until the answer is proven to be the best.")] = False,
) -> dict[str, object]:
    """How answers are scored and searched."""
    return {
        "priors": None if prior is None else read_priors(prior),
        "lm_weight": lm_weight,
        "decoding": decoding and decoding.value,
        "normalise": normalise and normalise.value,
        "num_beams": num_beams,
        "exact": exact or None,
    }


def filters_given(given: list[str] | None) -> Mapping[str, "Attribute"]:
    """The values of --filter."""
    filters: dict[str, tuple[str, ...]] = {}
    for words in given or []:
        name, value = pair(words, "--filter", "attribute=value")
        filters[name] = (*filters.get(name, ()), value)  # given twice: one of them
    return filters


def rating_priors_given(given: list[str] | None) -> dict[str, float] | None:
    """The values of --rating-prior."""
    return None if given is None else read_weights(given, "--rating-prior")
