"""Workspace: a data set, its users' histories and a recommender over them, made from what the command line says.

More than 400 lines: what the command line says of the data and of the recommender is put together here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from llmgen.adapters import AdapterRecord
from llmgen.catalog.core import Catalog
from llmgen.datasets import NAMES, Dataset, k_core, load_dataset, load_tables
from llmgen.datasets.splits import History, histories, query_of
from llmgen.engines import Engine, load_engine
from llmgen.errors import ConfigError, LLMGenError
from llmgen.identifiers.named import TITLE, identified, wrong_identifier
from llmgen.priors import Prior, RatingKNN, RatingPrior
from llmgen.priors.kinds import kind, wrong
from llmgen.recommend.default_weight import LM_WEIGHT_BESIDE_A_PRIOR, answered
from llmgen.recommend.index import CatalogIndex
from llmgen.recommend.parts import Parts
from llmgen.recommend.prompting import Task, task_of
from llmgen.recommend.recommender import Choice, Recommender
from llmgen.recommend.request_weight import RequestWeight
from llmgen.recommend.settings import CommonSettings, GivenSettings, PriorValue, prior_settings
from llmgen.templates.library import PromptLibrary
from llmgen.templates.tasks import answers
from llmgen.types import RATINGS, Attribute, Item, Query

if TYPE_CHECKING:
    from llmgen.store import Store

logger = logging.getLogger(__name__)

RATING_PRIORS: Mapping[str, Callable[..., RatingPrior]] = {"rating_knn": RatingKNN.fit}
DEFAULT_PRIORS: Mapping[str, float] = {"transition": 1.0, "wish": 1.0}
RATING_WEIGHTS, TUNED_RATING_WEIGHTS = (0.5, 0.35), (0.25, 0.7)
"""Of rating priors and of the model beside each other: one that was not tuned on ratings, and one that was; see
eval/RESULTS.md. What stands alone has 1."""
MOST_LABELS = 21
"""0 to 10 in halves; a log with more different ratings has none that a prompt could name."""


@dataclass(frozen=True)
class DataSettings:
    """Which data: a named data set or MovieLens path, two tables of one's own, or a store."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    dataset: str = "movielens-100k"
    items: Path | None = None
    interactions: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Ours -> theirs, for the tables: item_id, title, user_id, timestamp (`none` where there are no times), rating."""
    attributes: Sequence[str] = ()
    noun: str = "item"
    label: str | None = None
    """How prompts and answers write an item, see `Catalog`; None as the named data set has it, for tables the title."""
    identifier: str | None = None
    """How the model spells items, see `llmgen.identifiers.named`; None for titles, or as the adapter was tuned."""
    drop_bad: bool = False
    core: int = 0
    """Users and items with fewer interactions are left out, see `k_core`; 0 keeps all."""
    items_columns: Mapping[str, str] = field(default_factory=dict)
    """Ours -> theirs in the table of items alone: item_id, title."""
    interactions_columns: Mapping[str, str] = field(default_factory=dict)
    """Ours -> theirs in the table of interactions alone: item_id, user_id, timestamp, rating."""
    separator: str | None = None
    encoding: str | None = None
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """How the tables are read, see `load_tables`; None where they tell themselves."""
    store: str | None = None
    """The address of a store, see `llmgen.store.Store.open`, in the place of tables."""
    kinds: Sequence[str] = ()
    """Events of these kinds are the log of a store; all where none is named."""
    pseudonyms: Path | None = None
    """The file of the key by which a store hides its users."""

    @classmethod
    def parse(cls, settings: Mapping[str, object]) -> DataSettings:
        """Of plain values by name, such as those of a YAML file.

        Raises:
            ConfigError: A name that there is not, or a value of another kind.
        """
        try:
            return TypeAdapter(cls).validate_python(settings)
        except ValidationError as error:
            said = "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg']}, not {one['input']!r}" for one in error.errors()
            )
            raise ConfigError(f"data: {said}; it takes the fields of llmgen.workspace.core.DataSettings") from None

    def opened(self) -> Store:
        """The store, which must be there.

        Raises:
            ConfigError: There is none, it cannot be read, its key is another one, or tables are named beside it.
            StoreError: Its database does not answer.
        """
        for name in ("items", "interactions", "columns", "attributes", "separator", "encoding", "time_unit"):
            if getattr(self, name):
                option = "--" + name.replace("_", "-")
                raise ConfigError(f"--store stands for tables of your own; leave out {option} and what belongs to them")
        try:
            from llmgen.store import Store
            from llmgen.store.pseudonyms import Pseudonyms
        except ModuleNotFoundError as error:
            raise ConfigError(f"a store needs {error.name}; pip install 'llmgen[store]'") from None
        key = None if self.pseudonyms is None else Pseudonyms.read(self.pseudonyms)
        return Store.open(str(self.store), pseudonyms=key, create=False)

    def load(self, *, progress: bool = True) -> Dataset:
        """Read and clean the data.

        Raises:
            ConfigError: One table without the other, a column or an identifier that is not known here, or a core below
                0.
            DataError: See `llmgen.datasets`.
        """
        if self.core < 0:
            raise ConfigError(f"core is how often each user and item must occur, 0 or more, not {self.core}")
        data = self._load(progress)
        data = k_core(data, self.core) if self.core else data
        return data if self.identifier is None else replace(data, catalog=identified(data.catalog, self.identifier))

    def _load(self, progress: bool) -> Dataset:
        if self.store is not None:
            with closing(self.opened()) as store:
                data = store.dataset(kinds=self.kinds)
            return data if self.label is None else replace(data, catalog=data.catalog.labelled(self.label))
        if self.kinds or self.pseudonyms:
            raise ConfigError("--kind and --pseudonyms are for a store: give --store too")
        if self.items is None and self.interactions is None:
            for option in ("separator", "encoding", "time_unit"):
                if getattr(self, option) is not None:
                    name = option.replace("_", "-")
                    raise ConfigError(f"--{name} is for tables of your own: give --items and --interactions too")
            data = load_dataset(self.dataset, progress=progress)
            return data if self.label is None else replace(data, catalog=data.catalog.labelled(self.label))
        if self.items is None or self.interactions is None:
            missing = "--items" if self.items is None else "--interactions"
            raise ConfigError(f"a table of items and one of interactions belong together; {missing} is missing")
        of_items, of_log = {"item_id", "title"}, {"item_id", "user_id", "timestamp", "rating"}
        for option, given, known in (
            ("--column", self.columns, of_items | of_log),
            ("--items-column", self.items_columns, of_items),
            ("--interactions-column", self.interactions_columns, of_log),
        ):
            if unknown := sorted(set(given) - known):
                raise ConfigError(f"{option} knows {', '.join(sorted(known))}; not {unknown[0]!r}")
        columns = {name: name for name in ("item_id", "title", "user_id", "timestamp")}
        columns |= self.columns
        in_items, in_log = {**columns, **self.items_columns}, {**columns, **self.interactions_columns}
        return load_tables(
            self.items,
            self.interactions,
            item_id=in_items["item_id"],
            title=in_items["title"],
            user_id=in_log["user_id"],
            timestamp=None if in_log["timestamp"] == "none" else in_log["timestamp"],
            rating=in_log.get("rating"),
            interactions_item_id=in_log["item_id"],
            attributes=self.attributes,
            noun=self.noun,
            label="{title}" if self.label is None else self.label,
            shown=tuple(self.attributes),
            on_bad="drop" if self.drop_bad else "error",
            separator=self.separator,
            encoding=self.encoding,
            time_unit=self.time_unit,
        )


def wrong_data(settings: Mapping[str, object]) -> Iterator[str]:
    """What can be known to be wrong with fields of `DataSettings` before any data is read; one line each."""
    try:
        found = DataSettings.parse(settings)
    except ConfigError as error:
        yield str(error)
    else:
        yield from wrong_in(found)


def wrong_in(found: DataSettings) -> Iterator[str]:
    """What can be known to be wrong with some data before any is read; one line each."""
    if found.identifier is not None and (said := wrong_identifier(found.identifier)):
        yield f"data: {said}"
    tables = [path for path in (found.items, found.interactions) if path is not None]
    for path in tables:
        if not Path(path).exists():
            yield f"data: there is no file {path}"
    if found.store is not None:
        try:
            found.opened().close()
        except LLMGenError as error:
            yield f"data: {error}"
        return
    if not tables and found.dataset not in NAMES and not Path(found.dataset).expanduser().exists():
        yield f"data: no data set is called {found.dataset}, and there is no such path; there is {', '.join(NAMES)}"


class RecommenderSettings(GivenSettings):
    """How to recommend; what is None is chosen to suit the query. The engine `none` leaves all to the priors.

    Attributes:
        folder: Of `llmgen fit`, which stands for data and fits; see `llmgen.workspace.fitted`.
    """

    folder: Path | None = None

    @cached_property
    def record(self) -> AdapterRecord | None:
        """How the adapter was tuned, where its folder says so.

        Raises:
            ConfigError: It says so in a file that is broken.
        """
        return None if self.adapter is None else AdapterRecord.read(self.adapter)

    @property
    def prior_settings(self) -> dict[str, dict[str, PriorValue]]:
        """Name of each prior -> settings of its fit: those given, else those that the adapter was tuned beside."""
        if self.priors is not None:
            return prior_settings(self.priors)
        tuned = self.record.recommender.priors if self.record else None
        return prior_settings({**tuned, "wish": None} if tuned else DEFAULT_PRIORS)

    def written(self, data: DataSettings) -> DataSettings:
        """The data with items written as the adapter was tuned on, unless the user says how to write them."""
        record = self.record
        label = self.label or (record.recommender.label if record else None)
        if label and data.label is None:
            data = replace(data, label=label)
        beside = record.beside(str(self.adapter)) if record and record.identifier != TITLE else None
        identifier = self.identifier or beside
        return replace(data, identifier=identifier) if identifier and data.identifier is None else data


class Workspace:
    """A data set with its users.

    Args:
        data: What was loaded.
    """

    def __init__(self, data: Dataset) -> None:
        self.data = data

    @property
    def catalog(self) -> Catalog:
        """The items."""
        return self.data.catalog

    @cached_property
    def histories(self) -> Mapping[str, History]:
        """User id -> what the user took, oldest first."""
        return histories(self.data.interactions, catalog=self.catalog)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The possible ratings: those of the log, rising; 1 to 5 where it has none, one or too many for a scale."""
        given = self.data.interactions["rating"].drop_nulls().unique().sort().to_list()
        return tuple(f"{rating:g}" for rating in given) if 2 <= len(given) <= MOST_LABELS else RATINGS

    def query(
        self,
        *,
        user: str | None = None,
        history: Sequence[str] = (),
        text: str | None = None,
        k: int = 10,
        filters: Mapping[str, Attribute] | None = None,
        include_seen: bool = False,
    ) -> Query:
        """A query for a known user, or for a history of item ids given by hand.

        Raises:
            DataError: The log has no such user.
            UnknownItemError: An id of the history is not in the catalog.
            ConfigError: Both a user and a history.
        """
        if user is not None and history:
            raise ConfigError("give --user or --history, not both: a user of the log has a history")
        items: tuple[Item, ...] = tuple(self.catalog[self.catalog.index(item_id)] for item_id in history)
        query = Query(items, text, user, k=k, filters=dict(filters or {}), exclude_seen=not include_seen)
        if user is None:
            return query
        known = user if user in self.histories else self.data.known_as(user)
        return replace(query_of(self.histories, known, query), user_id=user)

    def recommender(
        self, settings: RecommenderSettings, query: Query, *, needs_engine: bool | None = None
    ) -> Recommender:
        """A recommender for queries like this one; what is not given is chosen by `choose`.

        Args:
            settings: How to recommend.
            query: Of the kind that will be asked.
            needs_engine: Whether a model is loaded; by default where it has a weight in recommending.

        Raises:
            ConfigError: A prior of another name.
            EngineUnavailableError: See `load_engine`.
        """
        priors = self.priors(settings)
        choice = choose(settings, priors, query)
        if needs_engine is None:
            needs_engine = choice.lm_weight != 0 or settings.decoding == "free"
        loads = needs_engine and settings.engine != "none"
        engine = load_engine(settings.engine, adapter=settings.adapter) if loads else None
        return self.build(settings, priors, engine, choice)

    def priors(self, settings: RecommenderSettings) -> list[Prior]:
        """The priors that the settings name, fitted.

        Raises:
            ConfigError: A prior of another name, or a setting that it does not have or lacks.
        """
        wanted = settings.prior_settings
        if said := list(wrong(wanted)):
            raise ConfigError("\n".join(said))
        return [self._prior(name, **chosen) for name, chosen in wanted.items()]

    def rating_priors(self, settings: RecommenderSettings, weight: float) -> list[RatingPrior]:
        """The rating priors that the settings name, fitted; by default all with a weight, where the log has ratings.

        Raises:
            ConfigError: A rating prior of another name.
            DataError: One is named, and the log has no ratings.
        """
        weights = settings.rating_priors
        if weights is None:
            rated = self.data.interactions["rating"].null_count() < len(self.data.interactions)
            weights = dict.fromkeys(RATING_PRIORS, weight) if rated else {}
        if unknown := sorted(set(weights) - set(RATING_PRIORS)):
            raise ConfigError(f"no rating prior is called {unknown[0]!r}; there are {', '.join(RATING_PRIORS)}")
        return [RATING_PRIORS[name](self.data.interactions, weight=weight) for name, weight in weights.items()]

    def build(
        self,
        settings: RecommenderSettings,
        priors: Sequence[Prior],
        engine: Engine | None,
        choice: Choice,
        *,
        with_model: bool | None = None,
    ) -> Recommender:
        """A recommender of these parts; where an adapter was tuned for others, a warning says so.

        Args:
            settings: How to recommend.
            priors: Fitted.
            engine: The language model.
            choice: Prompt and weight where the settings leave them open.
            with_model: Whether ratings are weighted as beside a model; by default where there is one.
        """
        record = settings.record
        library = library_of(settings)
        tuned = tuned_prompts(record, library) if record else {}
        rating_priors, rating_lm_weight = self._rating_parts(
            settings, engine is not None if with_model is None else with_model, tuned="rate" in tuned
        )
        if choice.prompt:
            tuned[task_of(library[choice.prompt])] = choice.prompt
        config = settings.config(
            record.recommender if record else None,
            prompt=settings.prompts or tuple(tuned.values()),
            lm_weight=1.0 if choice.lm_weight is None else choice.lm_weight,
            rating_lm_weight=rating_lm_weight,
        )
        if record and engine is not None:
            record.check_identifier(self.catalog, str(settings.adapter))
        index = CatalogIndex(self.catalog, engine)
        log = self.log_of(settings, config.lm_weight)
        recommender = Recommender.of(Parts(index, engine, config, tuple(priors), tuple(rating_priors), library, log))
        if record and engine is not None:
            used = {"catalog": self.catalog.digest, "tokenizer": engine.tokenizer_digest}
            for difference in record.differences(**used, prompts=[recommender.template().ref]):
                logger.warning("the adapter %s may do badly: %s", settings.adapter, difference)
        return recommender

    def log_of(self, settings: RecommenderSettings, *weights: float | RequestWeight | None) -> Mapping[str, History]:
        """The histories, where a weight of the model reads which items were taken; none where no weight does.

        Args:
            settings: Their weight counts, and that of their adapter.
            weights: Others that count too.
        """
        tuned = settings.record.recommender.lm_weight if settings.record else None
        asked = (*weights, settings.lm_weight, tuned)
        return self.histories if any(isinstance(one, RequestWeight) and one.reads_log for one in asked) else {}

    def _rating_parts(
        self, settings: RecommenderSettings, with_model: bool, *, tuned: bool
    ) -> tuple[list[RatingPrior], float]:
        """The rating priors and the model's weight beside them; `tuned`: whether the model learned ratings."""
        beside, lm_weight = TUNED_RATING_WEIGHTS if tuned else RATING_WEIGHTS
        if settings.rating_lm_weight is not None:
            lm_weight = settings.rating_lm_weight
        priors = self.rating_priors(settings, beside if with_model and lm_weight != 0 else 1.0)
        return priors, lm_weight if priors or settings.rating_lm_weight is not None else 1.0

    def _prior(self, name: str, **settings: PriorValue) -> Prior:
        return kind(name).fit(self.data.interactions, self.catalog, **settings)


def tuned_prompts(record: AdapterRecord, library: PromptLibrary) -> dict[Task, str]:
    """Prompts that an adapter wants to be asked with: the one to recommend with, and the first of each other task.

    Args:
        record: Of the adapter.
        library: Prompts that are there; others are passed over, but for the one to recommend with.

    Raises:
        TemplateNotFoundError: The prompt to recommend with is not there.
    """
    chosen: dict[Task, str] = {task_of(library[name]): name for name in record.recommender.prompts}
    for name in (reference.partition("@")[0] for reference in record.prompts):
        if name in library and answers(library[name].task) and library[name].task != "cold_start":
            chosen.setdefault(task_of(library[name]), name)
    return chosen


def library_of(settings: CommonSettings) -> PromptLibrary:
    """The prompts: those of the settings' folder, and llmgen's."""
    return PromptLibrary.default(*([settings.prompt_folder] if settings.prompt_folder else []))


def choose(settings: RecommenderSettings, priors: Sequence[Prior], query: Query) -> Choice:
    """What suits a query, where the settings leave it open.

    The prompt is `cold_start` for a wish without a history, else the one that the adapter was tuned for; see
    `default_lm_weight` for the model's weight.
    """
    record = settings.record
    prompt = None
    if not settings.prompts:
        tuned = record.recommender.prompts if record else ()
        prompt = "cold_start" if not query.history and query.text else next(iter(tuned), None)
    if settings.lm_weight is not None:
        return Choice(prompt, settings.lm_weight)
    return Choice(prompt, default_lm_weight(settings.adapter, record, priors, [query]))


def default_lm_weight(
    adapter: str | None, record: AdapterRecord | None, priors: Sequence[Prior], queries: Sequence[Query]
) -> float | RequestWeight:
    """The model's weight for some queries, where nobody gives one.

    It is 1 where no prior knows the users or the wishes. Beside one that does it is the weight of the adapter's record,
    1 for an adapter without a record, and small without an adapter: a model that was not tuned on the catalog knows
    less than they do.
    """
    if not answered(priors, queries):
        return 1.0
    if adapter is None:
        return LM_WEIGHT_BESIDE_A_PRIOR
    weight = record.recommender.lm_weight if record else None
    return 1.0 if weight is None else weight
