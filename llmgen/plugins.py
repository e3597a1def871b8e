"""What other packages offer by entry points: priors, and tasks of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Protocol, TypeVar

from llmgen.errors import ConfigError


class Named(Protocol):
    """Something that settings name."""

    @property
    def name(self) -> str: ...  # noqa: D102


Kind = TypeVar("Kind", bound=Named)


def with_offers(
    ours: Sequence[Kind],
    group: str,
    what: str,
    kind: type[Kind],
    check: Callable[[Kind, str], None] = lambda offered, package: None,
) -> dict[str, Kind]:
    """Name -> what there is, this package's first.

    Args:
        ours: Of this package.
        group: Of the entry points.
        what: One of them in words, such as `prior`.
        kind: What an entry point must be.
        check: Raises where an offer, of a package, cannot be taken.

    Raises:
        ConfigError: A package offers something else, under a name that is taken, or what cannot be imported.
    """
    found = {one.name: one for one in ours}
    for entry in entry_points(group=group):
        package = entry.dist.name if entry.dist else entry.value
        try:
            offered = entry.load()
        except Exception as error:  # whatever the other package raises
            raise ConfigError(
                f"the {what} {entry.name!r} of the package {package} cannot be loaded: {error}; repair or remove it"
            ) from error
        if not isinstance(offered, kind) or offered.name != entry.name:
            raise ConfigError(
                f"the package {package} offers {offered!r} as the {what} {entry.name!r}; that is no {kind.__name__} of "
                "this name"
            )
        if entry.name in found:
            raise ConfigError(f"the package {package} offers a {what} {entry.name!r}, and there is one already")
        check(offered, package)
        found[entry.name] = offered
    return found
