"""Refitting: priors fitted anew on a store's events while the service answers, in a process of their own.

`python -m llmgen.server.refitting FOLDER` is that process: it reads from stdin what to fit, and leaves a saved
recommender.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from llmgen.errors import LLMGenError
from llmgen.priors.kinds import kind
from llmgen.recommend.parts import Parts
from llmgen.recommend.recommender import Recommender
from llmgen.recommend.saving import load_parts
from llmgen.server.orphans import end_with
from llmgen.server.served import ServedRecommender
from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace

logger = logging.getLogger(__name__)

NICE = 10
"""Answers come first."""
Fit = Callable[[], Awaitable[Parts]]


class Refitting:
    """Fits priors now and then, and puts them in the place of those that a live recommender has.

    Args:
        live: Whose priors.
        fit: Gives fitted priors and rating priors, for the catalog that it found.
        every_s: Seconds between the end of one fit and the begin of the next, above 0.

    Attributes:
        fitted_at: When the data were read that the priors in use are fitted on, seconds since 1970.
    """

    def __init__(self, live: ServedRecommender, fit: Fit, every_s: float) -> None:
        self.fitted_at = time.time()
        self._live, self._fit, self._every_s = live, fit, every_s

    async def keep_up(self) -> None:
        """Fit for ever; where it fails, the priors in use stay."""
        while True:
            await asyncio.sleep(self._every_s)
            began = time.time()
            try:
                await self._live.refit(await self._fit())
            except (LLMGenError, OSError) as error:
                logger.error("the priors were not fitted anew, and the old ones stay: %s", error)
                continue
            self.fitted_at = began
            logger.info("fitted the priors anew in %.1f s", time.time() - began)


async def fit_apart(data: DataSettings, settings: RecommenderSettings, rating_weight: float, folder: Path) -> None:
    """Fit priors in a process of its own, which is ended when this is cancelled, and when this process is killed.

    Args:
        data: The store.
        settings: Which priors.
        rating_weight: Of rating priors.
        folder: Where the recommender is saved that has them.

    Raises:
        LLMGenError: They cannot be fitted.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, str(folder), stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, said = await process.communicate(pickle.dumps((os.getpid(), data, settings, rating_weight)))
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise LLMGenError(lines[-1])


async def fitted_apart(data: DataSettings, settings: RecommenderSettings, rating_weight: float) -> Parts:
    """What `fit_apart` fits; its folder is gone afterwards."""
    with TemporaryDirectory(prefix="llmgen-fit-") as folder:
        await fit_apart(data, settings, rating_weight, Path(folder) / "fitted")
        return (await asyncio.to_thread(load_parts, Path(folder) / "fitted", None)).parts


def fit(data: DataSettings, settings: RecommenderSettings, rating_weight: float, folder: Path) -> None:
    """Fit priors and rating priors, and save a recommender that has them and no model.

    It has the users' histories too, where a weight of the model reads which items were taken.
    Priors that are made of the catalog alone are left out: they would be the same.
    """
    titles = replace(settings.written(data), identifier=None)  # priors do not ask how a model spells items
    workspace = Workspace(titles.load(progress=False))
    anew = {name: chosen for name, chosen in settings.prior_settings.items() if kind(name).refits}
    priors = workspace.priors(settings.replace(priors=anew))
    rating_priors = workspace.rating_priors(settings, rating_weight)
    log = workspace.log_of(settings)
    Recommender(workspace.catalog, None, priors=priors, rating_priors=rating_priors, histories=log).save(folder)


def main() -> None:
    """What the process does; an error is one line on stderr, the last one."""
    os.nice(NICE)
    parent, data, settings, rating_weight = pickle.load(sys.stdin.buffer)
    end_with(parent)
    try:
        fit(data, settings.replace(engine="none"), rating_weight, Path(sys.argv[1]))
    except LLMGenError as error:
        sys.exit(" ".join(str(error).splitlines()))


if __name__ == "__main__":
    main()
