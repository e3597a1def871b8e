"""CatalogIndex: what is looked up in a catalog again and again, each part made when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import numpy as np

from llmgen.catalog.core import SPELLING, Catalog
from llmgen.downloads import cache_dir
from llmgen.engines import Engine, joins, spell_lines
from llmgen.errors import ConfigError
from llmgen.grounding import Grounder
from llmgen.priors import AttributeFilter, Boosts, ExcludeSeen, SharedWeights
from llmgen.recommend.claims import Claims
from llmgen.recommend.prompting import needs_engine
from llmgen.trie.core import ItemTrie
from llmgen.trie.growth import follow, grow
from llmgen.types import IntArray, Item

SMALL_CATALOG = 5_000  # below, a trie is built in memory faster than it is worth a file

Spell = Callable[[Sequence[str]], list[tuple[int, ...]]]


class CatalogIndex:
    """The trie of a catalog under an engine's tokenizer, its index of titles, its filters and its shared weights.

    Args:
        catalog: What is indexed.
        engine: Whose tokens the trie is made of; None where no trie is needed.
        cache: Folder for the tries of large catalogs; below llmgen's cache by default.
        seen: The filter of items that were seen; made where it is not given.
        where: The filter on attributes; made where it is not given.
        tries: Those that are known already, see `trie_of`.

    Raises:
        ConfigError: The catalog is spelled in tokens that the engine does not have.

    Attributes:
        seen: As given, or made.
        where: As given, or made.
        boosts: Made of `where`.
    """

    def __init__(
        self,
        catalog: Catalog,
        engine: Engine | None,
        cache: Path | None = None,
        *,
        seen: ExcludeSeen | None = None,
        where: AttributeFilter | None = None,
        tries: Mapping[bool, ItemTrie] | None = None,
    ) -> None:
        if engine is not None:
            _check_tokens(catalog, engine)
        self.catalog, self.engine = catalog, engine
        self.seen = ExcludeSeen(catalog) if seen is None else seen
        self.where = AttributeFilter(catalog) if where is None else where
        self.boosts = Boosts(self.where)
        self._cache = cache
        self._tries = dict(tries or {})

    @property
    def trie(self) -> ItemTrie:
        """The catalog's trie under the engine's tokenizer, of items that are answers of their own.

        Raises:
            ConfigError: There is no engine.
        """
        return self.trie_of(continues=False)

    def trie_of(self, *, continues: bool) -> ItemTrie:
        """The catalog's trie behind a prompt.

        Args:
            continues: Whether the prompt begins a list, of which items are lines. Where the engine's tokenizer joins
                ends of lines and line breaks (see `llmgen.engines.Joining`), that is a trie of its own, whose paths
                end in line breaks; else it is `trie`.

        Raises:
            ConfigError: There is no engine.
        """
        engine = needs_engine(self.engine, "a trie")
        lines = continues and joins(engine)
        if lines not in self._tries:
            self._tries[lines] = self._built(engine, lines)
        return self._tries[lines]

    def has_trie(self, *, continues: bool = False) -> bool:
        """Whether the trie behind a prompt is made already; see `trie_of`."""
        return self.engine is not None and (continues and joins(self.engine)) in self._tries

    @cached_property
    def grounder(self) -> Grounder:
        """Finds the items of free text."""
        return Grounder(self.catalog)

    @cached_property
    def claims(self) -> Claims:
        """Finds what texts say of items."""
        return Claims(self.catalog)

    @cached_property
    def titles(self) -> Mapping[str, Item]:
        """Items by their labels and titles; the first one where several are called so, and labels before titles."""
        found: dict[str, Item] = {}
        for name, item in chain(
            zip(self.catalog.labels, self.catalog, strict=True), ((i.title, i) for i in self.catalog)
        ):
            found.setdefault(name.strip(), item)
        return found

    @cached_property
    def shared(self) -> SharedWeights:
        """Weights that requests have in common."""
        return SharedWeights(len(self.catalog))

    def on_catalog(self, catalog: Catalog, before: IntArray) -> CatalogIndex:
        """The index of a changed catalog; what was made already is changed, and not made anew.

        Args:
            catalog: The new one.
            before: See `llmgen.priors.Movable`.
        """
        tries = {}
        for lines, trie in self._tries.items():
            spell = _spelling(needs_engine(self.engine, "a trie"), lines)
            if catalog.begins_with(self.catalog):
                new = [catalog.spelling(item) for item in catalog[len(self.catalog) :]]
                made: ItemTrie | None = grow(trie, spell(new))
            else:
                made = self._followed(trie, catalog, before, spell)
            if made is not None:
                tries[lines] = made
        seen, where = self.seen.on_catalog(catalog, before), self.where.on_catalog(catalog, before)
        index = CatalogIndex(catalog, self.engine, self._cache, seen=seen, where=where, tries=tries)
        if "grounder" in vars(self):
            vars(index)["grounder"] = self.grounder.on_catalog(catalog, before)
        return index

    def _built(self, engine: Engine, lines: bool) -> ItemTrie:
        spell = _spelling(engine, lines)
        if len(self.catalog) < SMALL_CATALOG:
            return ItemTrie.build(spell(self.catalog.spellings))
        key = (engine.tokenizer_digest, self.catalog.digest, f"spelling {SPELLING}", *(("lines",) if lines else ()))
        folder = self._cache or cache_dir() / "tries"
        return ItemTrie.cached(folder, key, lambda: spell(self.catalog.spellings))

    def _followed(self, trie: ItemTrie, catalog: Catalog, before: IntArray, spell: Spell) -> ItemTrie | None:
        """The trie of a catalog that was changed otherwise than by new items at its end; see `follow`."""
        same = before.copy()
        # only what is no longer the very same item may be spelled in another way, unless all are
        alike = catalog.settings == self.catalog.settings
        changed = (catalog.unchanged_since(self.catalog, before) < 0) if alike else np.ones(len(before), bool)
        for place in np.flatnonzero(changed & (before >= 0)).tolist():
            if _spelling_at(catalog, place) != _spelling_at(self.catalog, int(before[place])):
                same[place] = -1
        return follow(trie, same, lambda items: spell([_spelling_at(catalog, item) for item in items.tolist()]))


def _spelling(engine: Engine, lines: bool) -> Spell:
    """What gives the paths of a trie: of lines, or of answers."""
    return partial(spell_lines, engine) if lines else engine.spell


def _check_tokens(catalog: Catalog, engine: Engine) -> None:
    """See that an engine has the tokens in which items are spelled."""
    tokens = () if catalog.identifier is None else catalog.identifier.tokens
    if tokens and any(len(path) != 2 for path in engine.spell([tokens[0], tokens[-1]])):  # each token, and the end
        raise ConfigError(
            f"items are spelled in tokens of their own, such as {tokens[0]}, and {engine.name} does not have them: "
            "take an adapter that llmgen train tuned with this identifier, or the model that llmgen merge made of it, "
            "or spell items by titles"
        )


def _spelling_at(catalog: Catalog, position: int) -> str:
    return catalog.spelling(catalog[position])
