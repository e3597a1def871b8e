"""Transition counts by each event are, bit for bit, those of a fit on the whole log."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError
from llmgen.events import Interaction
from llmgen.priors import Transition
from llmgen.priors.transition_counts import TransitionCounts
from llmgen.types import Item

IDS = "abcdef"
SCHEMA = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Float64}


def catalog(ids: str) -> Catalog:
    return Catalog([Item(one, f"Film {one}") for one in ids])


def equal(ours: sparse.csr_array, theirs: sparse.csr_array) -> None:
    assert ours.indptr.tolist() == theirs.indptr.tolist()
    assert ours.indices.tolist() == theirs.indices.tolist()
    assert ours.data.tobytes() == theirs.data.tobytes()


def fitted(events: list[Interaction], ids: str, window: int, decay: float) -> sparse.csr_array:
    frame = pl.DataFrame([one for one in events if one.item in ids], SCHEMA, orient="row")
    found = Transition.count(frame, catalog(ids), window=window, step_decay=decay)
    found.sort_indices()
    return found


def test_by_hand() -> None:
    counts = TransitionCounts("abc", window=2, step_decay=0.5)
    counts.add([Interaction("u", "a", 1), Interaction("u", "c", 3)])
    assert counts.counts(catalog("abc")).toarray().tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    counts.add([Interaction("u", "b", 2)])  # between them: a and c are a place further apart
    assert counts.counts(catalog("abc")).toarray().tolist() == [[0, 1, 0.5], [0, 0, 1], [0, 0, 0]]
    counts.forget("u")
    assert counts.counts(catalog("abc")).nnz == 0


EVENTS = st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from(IDS), st.integers(0, 5)), max_size=40)
STEPS = st.one_of(
    EVENTS.map(lambda rows: [Interaction(user, item, float(when)) for user, item, when in rows]),
    st.sampled_from("uvw"),
    st.sets(st.sampled_from(IDS), min_size=1).map(frozenset),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=8), st.integers(1, 4), st.sampled_from([0.9, 0.7, 1.0]))
def test_events_in_any_order_users_forgotten_and_items_that_come_and_go_leave_what_a_fit_finds(
    steps: list[list[Interaction] | str | frozenset[str]], window: int, decay: float
) -> None:
    counts = TransitionCounts(IDS, window=window, step_decay=decay)
    events: list[Interaction] = []
    ids = IDS
    for step in steps:
        if isinstance(step, list):
            counts.add(step)
            events += step
        elif isinstance(step, frozenset):
            ids = "".join(sorted(step))
            counts.follow(ids)
        else:
            counts.forget(step)
            events = [one for one in events if one.user != step]
        equal(counts.counts(catalog(ids)), fitted(events, ids, window, decay))


def test_many_equal_pairs_are_added_up_as_a_fit_adds_them_up() -> None:
    """0.9 a thousand times is another number than 900; the fit adds, so this does too."""
    events = [Interaction(f"u{user}", item, float(time)) for user in range(1_000) for time, item in enumerate("abc")]
    counts = TransitionCounts("abc", window=2, step_decay=0.9)
    counts.add(events)
    found = counts.counts(catalog("abc"))
    equal(found, fitted(events, "abc", 2, 0.9))
    assert found[0, 2] != 1_000 * 0.9
    prior = Transition.fit(pl.DataFrame(schema=SCHEMA), catalog("abc"), window=2, counts=found)
    again = Transition.fit(pl.DataFrame(events, SCHEMA, orient="row"), catalog("abc"), window=2)
    assert np.asarray(prior.similarity).tobytes() == np.asarray(again.similarity).tobytes()


@pytest.mark.parametrize(("window", "decay", "says"), [(0, 0.9, "window"), (1, 0.0, "step_decay"), (1, 1.1, "not 1.1")])
def test_settings_out_of_range_are_refused(window: int, decay: float, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        TransitionCounts("a", window=window, step_decay=decay)
