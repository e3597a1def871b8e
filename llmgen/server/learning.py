"""Learning: the transitions that a service recommends by, counted on with each event of its store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.datasets import INTERACTIONS
from llmgen.errors import ConfigError, LLMGenError
from llmgen.priors import Prior, Transition
from llmgen.priors.transition_counts import TransitionCounts
from llmgen.server.served import ServedRecommender

if TYPE_CHECKING:
    from llmgen.store import Store

logger = logging.getLogger(__name__)

POLL_S = 0.5
"""The store is asked for new events so often; one small query where there are none."""
SHARE = 0.2
"""Of its time, this spends so much on counting and on the prior that comes of it; the rest is for answers."""


class Learning:
    """Keeps the prior `transition` of a live recommender as a fit on all events of the store would give it.

    Args:
        live: Whose prior.
        store: With the events.
        kinds: Only events of these kinds; all where none is named.
        settings: Of `Transition.fit`.

    Raises:
        ConfigError: The recommender has no such prior.
    """

    def __init__(
        self,
        live: ServedRecommender,
        store: Store,
        *,
        kinds: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._live, self._store, self._kinds = live, store, kinds
        self._ours = self._in_use()
        if self._ours is None:
            raise ConfigError("there is no prior transition that could learn; name it with --prior transition=1")
        self._settings = dict(settings or {})
        self._counts: TransitionCounts | None = None
        self._catalog: Catalog | None = None
        self._version = 0
        self._prior: Transition | None = None

    async def keep_up(self) -> None:
        """Learn for ever; while the store is away, the prior in use stays."""
        away = False
        while True:
            began = time.monotonic()
            try:
                await self.catch_up()
                away = False
            except LLMGenError as error:
                if not away:
                    logger.error("nothing is learned from new events: %s", error)
                away = True
            took = time.monotonic() - began
            await asyncio.sleep(max(POLL_S, took / SHARE - took))

    async def catch_up(self) -> None:
        """Count the events that the store has had since the last time, and recommend by them.

        Raises:
            StoreError: The store does not answer.
        """
        catalog = self._live.now.recommender.catalog
        made = await asyncio.to_thread(self._learned, catalog)
        if self._prior is not None and (made or self._in_use() is not self._ours):  # another fit came between
            await self._live.exchange(self._prior, catalog)
            self._ours = self._in_use()

    def _in_use(self) -> Prior | None:
        return next((one for one in self._live.now.recommender.priors if isinstance(one, Transition)), None)

    def _learned(self, catalog: Catalog) -> bool:
        """Make the prior anew where something has changed; whether it has."""
        changes = self._store.event_changes(self._version, kinds=self._kinds)
        moved = catalog is not self._catalog
        if self._counts is None or changes.whole:
            names = ("window", "step_decay")
            self._counts = TransitionCounts(
                catalog.ids, **{name: self._settings[name] for name in names if name in self._settings}
            )
        elif moved:
            self._counts.follow(catalog.ids)
        self._counts.add(changes.new)
        self._version, self._catalog = changes.version, catalog
        if not (moved or changes.new or changes.whole):
            return False
        nothing = pl.DataFrame(schema=dict(INTERACTIONS))
        self._prior = Transition.fit(nothing, catalog, counts=self._counts.counts(catalog), **self._settings)
        return True
