"""What is made beside a catalog that changes: nobody waits for it, and nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import numpy as np

from llmgen import Item, Query
from llmgen.catalog.core import Catalog
from llmgen.priors import Popularity, TextQuery
from llmgen.recommend.recommender import Recommender
from llmgen.server.served import ServedRecommender
from llmgen.types import IntArray

OLD = Catalog([Item(str(number), f"Film {number}") for number in range(5)])
LAST_FIRST = np.log(np.arange(1.0, 6.0) / 15)


@dataclass(frozen=True, eq=False)
class Slow(Popularity):
    """Says when it is moved to another catalog the first time, and waits for leave."""

    begun: threading.Event = field(default_factory=threading.Event)
    leave: threading.Event = field(default_factory=threading.Event)

    def on_catalog(self, catalog: Catalog, before: IntArray) -> Popularity:
        self.begun.set()
        assert self.leave.wait(20)
        return super().on_catalog(catalog, before)


def test_priors_that_were_not_fitted_anew_stay_in_their_place() -> None:
    wish = TextQuery(OLD)
    live = ServedRecommender(Recommender(OLD, None, priors=[wish, Popularity(LAST_FIRST)]))
    fitted = Popularity(-LAST_FIRST)
    made = asyncio.run(live.refit(Recommender(OLD, None, priors=[fitted]).parts))
    first, second = made.recommender.priors
    assert first is wish
    assert second is fitted


def test_a_change_of_the_catalog_does_not_wait_for_new_priors_and_both_are_there() -> None:
    fitted = Slow(LAST_FIRST)
    parts = Recommender(OLD, None, priors=[fitted]).parts

    async def meanwhile() -> ServedRecommender:
        live = ServedRecommender(Recommender(OLD, None, priors=[Popularity(-LAST_FIRST)]))
        await live.put([Item("5", "Film 5")])  # the priors were fitted before it came
        refit = asyncio.create_task(live.refit(parts))
        assert await asyncio.to_thread(fitted.begun.wait, 20)
        put = await asyncio.wait_for(live.put([Item("6", "Film 6")]), 20)
        await asyncio.wait_for(live.remove("4"), 20)
        assert not refit.done()
        assert "6" in put.recommender.catalog
        assert live.now.recommender.recommend(Query(k=1))[0].item.id == "0"  # by the old priors still
        fitted.leave.set()
        assert await refit is live.now
        return live

    live = asyncio.run(meanwhile())
    made = live.now.recommender
    assert list(made.catalog.ids) == ["0", "1", "2", "3", "5", "6"]
    assert (live.now.digest, list(live.now.gone)) == (made.catalog.digest, ["4"])
    (ours,) = made.priors
    assert isinstance(ours, Popularity)
    # of 15 events those that are left took 1, 2, 3 and 4; items that came later are as rare as the rarest
    assert np.allclose(np.exp(ours.log_shares), np.array([1, 2, 3, 4, 1, 1]) / 12)
    assert made.recommend(Query(k=1))[0].item.id == "3"
