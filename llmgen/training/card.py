"""The model card of an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llmgen.adapters import AdapterRecord
from llmgen.datasets import Dataset

CARD = """---
library_name: peft
base_model: {base}
tags: [recommender-system, llmgen]
---

# {base}, tuned to recommend {nouns} of {dataset}

An adapter of llmgen: it ranks the {items} {nouns} of one catalog, through a search that can name nothing else.

```console
$ llmgen recommend --engine hf --adapter {folder} --user USER
```

| | |
|---|---|
| learned from | {interactions} interactions of {dataset}, digest `{data}` |
| catalog | {items} {nouns}, digest `{catalog}` |
| loss | {loss} |
| prompts | {prompts} |
| steps | {steps}, seed {seed} |
| weight beside a prior | {lm_weight:g} |
| versions | {versions} |

## Validation

{metrics}

On the last but one item of a sample of users: NDCG@10 of the full ranking; nats, the negative log-likelihood of the
item. Chosen for, so optimistic. A test with intervals is
`llmgen evaluate --arm "tuned=--adapter {folder} --priors-of best --lm-weight tuned" --out runs/eval`.

## Limits and licences

It knows this catalog and this log: the people in the log are recognisable from it in principle, so it is as private as
they are. The terms of the data ({dataset}) and the licence of the base model ({base}) both apply to it.
"""


def write_card(
    folder: Path,
    record: AdapterRecord,
    dataset: Dataset,
    interactions: int,
    validations: Sequence[Mapping[str, float]],
    loss: str,
) -> None:
    """Write `README.md` beside an adapter.

    Args:
        folder: Of the adapter.
        record: Of the run.
        dataset: That it was tuned on.
        interactions: How many it learned from.
        validations: What the trainer logged of each, in order.
        loss: What was minimised, for people, see `Recipe.loss_as_told`.
    """
    table = "No users were held out."
    if validations:
        last = validations[-1]
        names = [name for name in last if name.startswith("eval_") and isinstance(last[name], float)]
        heads = [name.removeprefix("eval_") for name in names]
        lines = ["| step | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 1)]
        for row in validations:
            lines.append(f"| {row['step']:g} | " + " | ".join(f"{row.get(name, 0.0):.4f}" for name in names) + " |")
        table = "\n".join(lines)
    nouns = f"{dataset.catalog.noun}s"
    text = CARD.format(
        base=record.base_model,
        nouns=nouns,
        dataset=dataset.name,
        items=len(dataset.catalog),
        folder=folder,
        interactions=interactions,
        data=record.data,
        catalog=record.catalog,
        loss=loss,
        prompts=", ".join(f"`{prompt}`" for prompt in record.prompts),
        steps=record.steps,
        seed=record.seed,
        lm_weight=record.recommender.config().usual_lm_weight,
        versions=", ".join(f"{name} {version}" for name, version in record.versions.items()),
        metrics=table,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
