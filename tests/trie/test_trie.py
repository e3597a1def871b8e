"""The trie spells exactly the catalog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgen.engines.fake import FakeEngine
from llmgen.trie.core import ARRAYS, ItemTrie

TITLES = [
    ["Alien", "Aliens", "Alien 3", "Alien"],
    ["M"],
    ["七人の侍", "七人", "Сталкер", "🎬", "🎬🎬"],
    ["<|im_end|>", "<|im_end|> Code", "</s>"],
]

paths_of_items = st.lists(
    st.lists(st.integers(1, 4), min_size=1, max_size=5).map(lambda path: (*path, 0)), min_size=1, max_size=40
)


def leaves(trie: ItemTrie) -> list[tuple[tuple[int, ...], list[int]]]:
    """Whole path and items of each leaf, by walking over all nodes."""
    nodes = np.arange(trie.num_nodes)
    return [
        ((*trie.spelling(node), *trie.tail_of(node)), trie.order[trie.lo[node] : trie.hi[node]].tolist())
        for node in nodes[trie.is_leaf(nodes)].tolist()
    ]


@given(paths_of_items)
def test_every_leaf_spells_its_items_and_every_item_has_one(paths: list[tuple[int, ...]]) -> None:
    found = {item: spelled for spelled, items in leaves(ItemTrie.build(paths)) for item in items}
    assert [found[item] for item in range(len(paths))] == paths


@given(paths_of_items)
def test_children_equal_a_scan_of_all_paths(paths: list[tuple[int, ...]]) -> None:
    trie = ItemTrie.build(paths)
    places = np.arange(len(trie.token))
    assert len({trie.spelling(place) for place in places.tolist()}) == len({p[:n] for p in paths for n in range(9)})
    children, splits = trie.children(places)
    for place in places.tolist():
        prefix = trie.spelling(place)
        expected = sorted({p[len(prefix)] for p in paths if p[: len(prefix)] == prefix and len(p) > len(prefix)})
        own = children[splits[place] : splits[place + 1]]
        assert trie.token[own].tolist() == expected
        assert (trie.parent[own[own < trie.num_nodes]] == place).all()


@given(paths_of_items)
def test_a_path_has_nodes_as_far_as_another_goes_with_it_and_one_more(paths: list[tuple[int, ...]]) -> None:
    trie = ItemTrie.build(paths)
    nodes = {trie.spelling(node) for node in range(trie.num_nodes)}
    shared = {p[:n] for p in paths for n in range(len(p)) if any(q[:n] == p[:n] and q != p for q in paths)} | {()}
    assert nodes == shared | {p[: len(s) + 1] for s in shared for p in paths if p[: len(s)] == s}
    assert trie.longest == max(map(len, paths))


@given(paths_of_items)
def test_interval_below_a_node_holds_the_items_that_begin_with_it(paths: list[tuple[int, ...]]) -> None:
    trie = ItemTrie.build(paths)
    for place in range(len(trie.token)):
        prefix = trie.spelling(place)
        (node,) = trie.node_of(np.array([place]))
        below = sorted(trie.order[trie.lo[node] : trie.hi[node]].tolist())
        assert below == [item for item, path in enumerate(paths) if path[: len(prefix)] == prefix]


@given(paths_of_items, st.integers(0, 2**32))
def test_mass_of_an_interval_is_the_direct_sum(paths: list[tuple[int, ...]], seed: int) -> None:
    trie = ItemTrie.build(paths)
    weights = np.random.default_rng(seed).random(len(paths))
    sums = np.concatenate([[0], np.cumsum(weights[trie.order])])
    for node in range(trie.num_nodes):
        prefix = trie.spelling(node)
        direct = sum(w for w, path in zip(weights, paths, strict=True) if path[: len(prefix)] == prefix)
        assert sums[trie.hi[node]] - sums[trie.lo[node]] == pytest.approx(direct)


@pytest.mark.parametrize("titles", TITLES)
def test_titles_in_any_script_are_spelled(titles: list[str]) -> None:
    spelled = FakeEngine().spell(titles)
    trie = ItemTrie.build(spelled)
    assert [trie.path(item) for item in range(len(titles))] == spelled


def test_items_that_share_a_title_share_a_leaf_in_catalog_order() -> None:
    assert leaves(ItemTrie.build([[7, 0], [5, 0], [7, 0]])) == [((5, 0), [1]), ((7, 0), [0, 2])]


def test_a_path_that_begins_another_is_refused() -> None:
    with pytest.raises(ValueError, match="path 1 is the beginning of path 0"):
        ItemTrie.build([[5, 6], [5]])


@pytest.mark.parametrize(
    ("paths", "message"),
    [([], "at least one path"), ([[1], []], "path 1 is empty"), ([[1, -2]], "0 or more, not -2")],
)
def test_unusable_paths_are_refused(paths: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemTrie.build(paths)


def test_a_stored_trie_is_the_same_and_is_not_built_again(tmp_path: Path) -> None:
    calls = []

    def paths() -> list[list[int]]:
        calls.append(1)
        return [[5, 6, 0], [5, 0]]

    first = ItemTrie.cached(tmp_path, ("catalog", "tokenizer"), paths)
    second = ItemTrie.cached(tmp_path, ("catalog", "tokenizer"), paths)
    assert len(calls) == 1
    assert second.longest == 3
    assert isinstance(second.token, np.memmap)
    assert leaves(first) == leaves(second) == leaves(ItemTrie.build(paths()))


def test_another_catalog_or_tokenizer_is_another_trie(tmp_path: Path) -> None:
    ItemTrie.cached(tmp_path, ("a", "bc"), lambda: [[1, 0]])
    other = ItemTrie.cached(tmp_path, ("ab", "c"), lambda: [[2, 0]])
    assert other.path(0) == (2, 0)


def _flipped(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", [f"{name}.npy" for name in ARRAYS])
@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.write_bytes(b"broken"),
        lambda file: file.write_bytes(b""),
        lambda file: file.unlink(),
        lambda file: _flipped(file, -1),
    ],
    ids=["garbage", "empty", "missing", "one bit"],
)
def test_a_broken_store_is_built_again_with_a_warning(
    tmp_path: Path, name: str, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    paths = [[5, 6, 7, 0], [5, 0]]
    ItemTrie.cached(tmp_path, ("key",), lambda: paths)
    (stored,) = tmp_path.iterdir()
    harm(stored / name)
    made = ItemTrie.cached(tmp_path, ("key",), lambda: paths)
    assert [made.path(item) for item in (0, 1)] == [(5, 6, 7, 0), (5, 0)]
    assert len(caplog.records) == 1
    assert str(stored) in caplog.text
    assert [folder.name for folder in tmp_path.iterdir()] == [stored.name]
    ItemTrie.cached(tmp_path, ("key",), lambda: pytest.fail("what was built again is kept"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 4}', '{"format": 4, "longest": 9, "crc32": {}}'])
def test_a_store_whose_description_is_broken_is_built_again(tmp_path: Path, content: str) -> None:
    ItemTrie.cached(tmp_path, ("key",), lambda: [[1, 0]])
    (stored,) = tmp_path.iterdir()
    (stored / "trie.json").write_text(content)
    assert ItemTrie.cached(tmp_path, ("key",), lambda: [[1, 0]]).path(0) == (1, 0)
    assert ItemTrie.load(stored).longest == 2
