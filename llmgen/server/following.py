"""Following: a live recommender whose catalog is that of a store, which other processes change too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llmgen.catalog.core import Catalog
from llmgen.errors import LLMGenError
from llmgen.recommend.recommender import Recommender
from llmgen.server.served import ServedRecommender, Snapshot
from llmgen.types import Item

if TYPE_CHECKING:
    from llmgen.store import Store

logger = logging.getLogger(__name__)

POLL_S = 0.25
"""The store is asked for changes so often; one small query where there are none."""


class StoreFollower(ServedRecommender):
    """A change is written to the store first, and then made here as every other process makes it.

    Args:
        recommender: The first.
        store: With the catalog.
        version: Number of a change of the store's items that the recommender's catalog has; later ones it may have.

    Attributes:
        problem: Why the last changes of the store are not in use, or None.
    """

    def __init__(self, recommender: Recommender, store: Store, version: int) -> None:
        super().__init__(recommender)
        self.problem: str | None = None
        self._store = store
        self._version = version

    async def put(self, items: Iterable[Item]) -> Snapshot:
        """Insert items, or replace those with known ids; durable when this returns.

        Raises:
            CatalogError: See `Catalog.with_items`; nothing is changed then.
            StoreError: The store does not answer.
        """
        given = list(items)
        await asyncio.to_thread(self._check, given)
        await asyncio.to_thread(self._store.put_items, given)
        return await self.catch_up()

    async def remove(self, item_id: str) -> Snapshot:
        """Take one item out; durable when this returns.

        Raises:
            UnknownItemError, CatalogError: See `Catalog.without`; nothing is changed then.
            StoreError: The store does not answer.
        """
        await asyncio.to_thread(self._store.remove_items, [item_id])
        return await self.catch_up()

    async def catch_up(self) -> Snapshot:
        """Make the changes that the store has had since the last time.

        Raises:
            StoreError: The store does not answer.
        """
        async with self._one_change:
            changes = await asyncio.to_thread(self._store.item_changes, self._version)
            if changes.put or changes.removed:
                self.now = await asyncio.to_thread(self._changed, changes.apply)
            self._version = changes.version  # only now: a change that could not be made is tried again
            return self.now

    async def follow(self) -> None:
        """Catch up now and then, for ever."""
        while True:
            try:
                await self.catch_up()
                self.problem = None
            except LLMGenError as error:
                if self.problem is None:
                    logger.error("changes of the store are not in use: %s", error)
                self.problem = str(error)
            await asyncio.sleep(POLL_S)

    def _check(self, items: list[Item]) -> None:
        """See that the items can be in the catalog and be spelled, before any other process gets them."""
        recommender = self.now.recommender
        catalog: Catalog = recommender.catalog.with_items(items)
        if recommender.engine is not None:
            recommender.engine.spell([catalog.spelling(item) for item in items])
