"""Live: the recommender that answers now, and how its catalog is changed while it does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError
from llmgen.priors import Prior
from llmgen.priors.base import Movable
from llmgen.recommend.parts import Parts
from llmgen.recommend.prompting import Task, task_of
from llmgen.recommend.recommender import Choice, Recommender
from llmgen.server.users import Taken
from llmgen.types import Item, Query

Choose = Callable[[Recommender, Query], Choice]


@dataclass(eq=False, slots=True)
class Snapshot:
    """One state of the catalog with its recommender. A request keeps to the one that it began with.

    Attributes:
        recommender: For this catalog; its trie is built.
        digest: Of the catalog.
        gone: Items that were in the catalog since the service started, and are no more.
    """

    recommender: Recommender
    digest: str
    gone: Mapping[str, Item] = field(default_factory=dict)
    _variants: dict[Choice, Recommender] = field(default_factory=dict)

    @classmethod
    def of(cls, recommender: Recommender, gone: Mapping[str, Item] | None = None) -> Snapshot:
        """Build what is costly, and all at once."""
        recommender.prepare()
        return cls(recommender, recommender.catalog.digest, gone or {})

    def history(self, ids: Iterable[str]) -> list[Item]:
        """The items with these ids; what people took stays in their histories when it leaves the catalog.

        Raises:
            UnknownItemError: The catalog lacks one of them, and had none since the service started.
        """
        return [self.gone[item_id] if item_id in self.gone else self.items([item_id])[0] for item_id in ids]

    def taken(self, taken: Taken) -> tuple[list[Item], Sequence[float] | None]:
        """The items that a user took, and their ratings, without those that were never in the catalog."""
        there: Container[object] = self.recommender.catalog
        known = [place for place, item_id in enumerate(taken.ids) if item_id in self.gone or item_id in there]
        items = self.history(taken.ids[place] for place in known)
        return items, None if taken.ratings is None else [taken.ratings[place] for place in known]

    def items(self, ids: Iterable[str]) -> list[Item]:
        """The items with these ids.

        Raises:
            UnknownItemError: The catalog lacks one of them.
        """
        catalog = self.recommender.catalog
        return [catalog[catalog.index(item_id)] for item_id in ids]

    def variant(self, task: Task, choice: Choice) -> Recommender:
        """The recommender with another prompt or weight; equal choices give the same object.

        Raises:
            TemplateNotFoundError: There is no such prompt.
            ConfigError: The prompt is for another task, or for none.
        """
        if choice.prompt is not None:
            given = task_of(self.recommender.prompts[choice.prompt])
            if given != task:
                raise ConfigError(f"the prompt {choice.prompt!r} is for {given!r}, not for {task!r}")
        if choice not in self._variants:
            made = self.recommender
            if choice.prompt is not None:
                made = made.with_prompt(choice.prompt)
            if choice.lm_weight is not None:
                made = made.with_priors(*made.priors, lm_weight=choice.lm_weight)
            self._variants[choice] = made
        return self._variants[choice]


class ServedRecommender:
    """The current snapshot; changes are made one after the other, beside it, and then put in its place at once.

    Args:
        recommender: The first.
        save: Where each changed catalog is written before it is used; None keeps changes in memory only.
    """

    def __init__(self, recommender: Recommender, *, save: Path | None = None) -> None:
        self.now = Snapshot.of(recommender)
        self._save = save
        self._one_change = asyncio.Lock()

    async def put(self, items: Iterable[Item]) -> Snapshot:
        """Insert items, or replace those with known ids.

        Raises:
            CatalogError: See `Catalog.with_items`; nothing is changed then.
        """
        return await self.change(lambda catalog: catalog.with_items(items))

    async def remove(self, item_id: str) -> Snapshot:
        """Take one item out.

        Raises:
            UnknownItemError, CatalogError: See `Catalog.without`; nothing is changed then.
        """
        return await self.change(lambda catalog: catalog.without([item_id]))

    async def change(self, made: Callable[[Catalog], Catalog]) -> Snapshot:
        """Replace the catalog by what `made` makes of it; requests under way keep the one that they began with."""
        async with self._one_change:
            self.now = await asyncio.to_thread(self._changed, made)
            return self.now

    async def refit(self, parts: Parts) -> Snapshot:
        """Answer by other priors: those of a recommender of the same shop, whose catalog may be an older one.

        Each takes the place of the one of its name; priors that it lacks stay as they are. Its histories, where it has
        some, are taken too: a weight of the model may read which items were taken.

        They are put on the catalog of now beside all that goes on. Changes that are made meanwhile do not wait; the
        priors are moved on to what came of them, which takes no longer than a change does.
        """
        began = self.now
        made = await asyncio.to_thread(self._refitted, parts, began)
        async with self._one_change:
            if self.now is not began:
                made = await asyncio.to_thread(self._followed, made)
            self.now = made
            return made

    async def exchange(self, prior: Prior, catalog: Catalog) -> Snapshot:
        """Answer by another prior in the place of the one of its name.

        Args:
            prior: Of the catalog of an earlier snapshot of this object.
            catalog: That one.
        """
        async with self._one_change:
            self.now = await asyncio.to_thread(self._exchanged, prior, catalog)
            return self.now

    def _exchanged(self, prior: Prior, catalog: Catalog) -> Snapshot:
        recommender = self.now.recommender
        if catalog is not recommender.catalog and isinstance(prior, Movable):
            prior = prior.on_catalog(recommender.catalog, recommender.catalog.positions_before(catalog))
        priors = [prior if one.name == prior.name else one for one in recommender.priors]
        return Snapshot.of(recommender.with_priors(*priors), self.now.gone)

    @staticmethod
    def _refitted(parts: Parts, now: Snapshot) -> Snapshot:
        fitted = Recommender.of(parts)
        recommender = now.recommender
        if fitted.catalog.digest != recommender.catalog.digest:
            fitted = fitted.with_catalog(recommender.catalog)
        anew = {prior.name: prior for prior in fitted.priors}
        priors = [anew.get(prior.name, prior) for prior in recommender.priors]
        made = recommender.with_priors(*priors).with_rating_priors(*fitted.rating_priors)
        if parts.histories:  # a weight of the model reads which items were taken
            made = made.with_histories(parts.histories)
        return Snapshot.of(made, now.gone)

    def _followed(self, made: Snapshot) -> Snapshot:
        """What was made of an earlier snapshot, for the catalog of now."""
        catalog = self.now.recommender.catalog
        recommender = made.recommender
        if recommender.catalog is not catalog:
            recommender = recommender.with_catalog(catalog)
        return Snapshot.of(recommender, self.now.gone)

    def _changed(self, made: Callable[[Catalog], Catalog]) -> Snapshot:
        recommender = self.now.recommender
        catalog = made(recommender.catalog)
        known = dict(self.now.gone)
        if not catalog.begins_with(recommender.catalog):
            before = catalog.positions_before(recommender.catalog)
            lost = np.delete(np.arange(len(recommender.catalog)), before[before >= 0]).tolist()
            known |= {item.id: item for item in map(recommender.catalog.__getitem__, lost)}
        gone = {item_id: item for item_id, item in known.items() if not catalog.positions([item])}
        snapshot = Snapshot.of(recommender.with_catalog(catalog), gone)
        if self._save is not None:
            snapshot.recommender.catalog.save(self._save)
        return snapshot
