"""Options of the commands that answer: who asks, with which model, prompt, priors and search."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

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
    list[str] | None, typer.Option("--filter", help="attribute=value; ranges as year=1990..1999. Repeatable.")
]


PriorOption = Annotated[
    list[str] | None,
    typer.Option(
        help="name=weight, or name:setting=value,setting=value, of those that `llmgen priors` lists. Repeatable; "
        "'none' for none."
    ),
]


ENGINES = "hf[:MODEL] or vllm[:MODEL], by default SmolLM2-135M-Instruct; openai:URL[:MODEL]; fake; none."


EngineOption = Annotated[
    str,
    typer.Option(help=ENGINES),
]


PromptsOption = Annotated[Path | None, typer.Option("--prompt-folder", help="A folder with prompts of your own.")]


LMWeightOption = Annotated[float | None, typer.Option(min=0, help="Weight of the model in the score; 0 leaves it out.")]


RatingPriorOption = Annotated[
    list[str] | None,
    typer.Option(help="name=weight: rating_knn, fitted where the log has ratings. Repeatable; 'none' for none."),
]


RatingLMWeightOption = Annotated[
    float | None, typer.Option(min=0, help="Weight of the model in a rating; 0 leaves it out.")
]


HistoryLengthOption = Annotated[
    int | None, typer.Option(min=0, help="Newest items of the history in the prompt; 20, or as the adapter was tuned.")
]


RunsOption = Annotated[Path, typer.Option(help="Folder for what is saved on the page to try prompts on.")]


AlsoOption = Annotated[
    list[str] | None,
    typer.Option(help="Another model to choose on that page: hf:MODEL, or '--engine E --adapter FOLDER'. Repeatable."),
]


AlignOption = Annotated[
    bool,
    typer.Option(
        "--align-prompts", help="Cut prompts to whole blocks of the KV cache: faster with vLLM, up to 1/4 less history."
    ),
]


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def model_options(
    load: Annotated[
        Path | None, typer.Option(help="A folder of `llmgen fit`, in the place of data; nothing is fitted then.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Name of a prompt template.")] = None,
    prompt_folder: PromptsOption = None,
    max_history: HistoryLengthOption = None,
    align_prompts: AlignOption = False,
    think_tokens: Annotated[
        int | None, typer.Option(min=0, help="Tokens that a model which can think may think for before it answers.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help=f"{ENGINES} hf, or as it was fitted, by default.")] = None,
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
        DecodingChoice | None, typer.Option(help="How answers become items; trie, or as the adapter was tuned.")
    ] = None,
    normalise: Annotated[
        NormaliseChoice | None, typer.Option(help="See llmgen.search; catalog, or as it was fitted.")
    ] = None,
    num_beams: Annotated[int | None, typer.Option(min=1, help="Nodes opened a round.")] = None,
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


def filters_given(given: list[str] | None) -> dict[str, "Attribute"]:
    """The values of --filter."""
    filters: dict[str, Attribute] = {}
    for words in given or []:
        name, value = pair(words, "--filter", "attribute=value")
        filters[name] = (*cast(tuple[str, ...], filters.get(name, ())), value)  # given twice: one of them
    return filters


def rating_priors_given(given: list[str] | None) -> dict[str, float] | None:
    """The values of --rating-prior."""
    return None if given is None else read_weights(given, "--rating-prior")
