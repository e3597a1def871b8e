"""Options that several commands share: functions whose parameters are the options, and how a command is given them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmgen.errors import ConfigError

if TYPE_CHECKING:
    from llmgen.recommend.settings import PriorValue
    from llmgen.workspace.core import DataSettings


def with_options(**groups: Callable[..., object]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of some functions; it gets what each returns as the argument of the group's name."""

    def give(command: Callable[..., None]) -> Callable[..., None]:
        options = {name: _options(group) for name, group in groups.items()}
        own = list(_options(command, without=groups).values())

        def run(**given: Any) -> None:
            made = {name: group(**{o: given.pop(o) for o in options[name]}) for name, group in groups.items()}
            command(**made, **given)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        shown = [*own, *(parameter for group in options.values() for parameter in group.values())]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        vars(run)["__signature__"] = inspect.Signature(shown)
        return run

    return give


def _options(function: Callable[..., object], without: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """The parameters, with the types that their annotations are the names of in the function's own module."""
    names = inspect.unwrap(function).__globals__
    return {
        name: one.replace(annotation=eval(one.annotation, names)) if isinstance(one.annotation, str) else one
        for name, one in inspect.signature(function).parameters.items()
        if name not in without
    }


def tables_given(
    dataset: Annotated[
        str | None, typer.Option(help="movielens-100k (the default), or a folder or zip of MovieLens files.")
    ] = None,
    items: Annotated[Path | None, typer.Option(help="Your table of items: CSV, TSV, JSON or Parquet.")] = None,
    interactions: Annotated[Path | None, typer.Option(help="Your table of who took what when.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="OURS=YOURS, the name of a column in your tables, as user_id=customer. Ours are item_id, title, "
            "user_id, timestamp (timestamp=none: there are no times) and rating. Repeatable."
        ),
    ] = None,
    items_column: Annotated[
        list[str] | None, typer.Option(help="As --column, for the table of --items only. Repeatable.")
    ] = None,
    interactions_column: Annotated[
        list[str] | None, typer.Option(help="As --column, for the table of --interactions only. Repeatable.")
    ] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="A column of your items to keep, for filters and prompts. Repeatable.")
    ] = None,
    noun: Annotated[
        str | None, typer.Option(help="What prompts call one of your items, as film. Default: item.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="How prompts and answers write an item, as '{title} ({year})'. Default: '{title}'."),
    ] = None,
    identifier: Annotated[
        str | None,
        typer.Option(
            help="How the model spells an item: title, words or codes, with settings as words:encoder=minilm,depth=2; "
            "or a folder of an identifier. Default: that of the adapter, else title."
        ),
    ] = None,
    drop_bad: Annotated[
        bool, typer.Option("--drop-bad", help="Leave bad rows out, instead of stopping at the first.")
    ] = False,
    separator: Annotated[
        str | None,
        typer.Option(help="The character between the cells of your tables, or tab. Default: found from their headers."),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="The encoding of your tables, as cp1252. Default: UTF-8.")
    ] = None,
    time_unit: Annotated[
        str | None,
        typer.Option(help="The unit of times that are numbers: s, ms, us or ns. Default: found from their size."),
    ] = None,
) -> dict[str, object]:
    """Which tables or named data set: fields of `llmgen.workspace.core.DataSettings`, those that were given."""
    given: dict[str, object] = {
        "dataset": dataset,
        "items": items,
        "interactions": interactions,
        "columns": _pairs(column, "--column"),
        "attributes": tuple(attribute or ()),
        "noun": noun,
        "label": label,
        "identifier": identifier,
        "drop_bad": drop_bad,
        "items_columns": _pairs(items_column, "--items-column"),
        "interactions_columns": _pairs(interactions_column, "--interactions-column"),
        "separator": separator,
        "encoding": encoding,
        "time_unit": time_unit,
    }
    return {name: value for name, value in given.items() if value or value == ""}


def store_given(
    store: Annotated[
        str | None, typer.Option(help="Your store, instead of tables: sqlite:///shop.db or postgresql://...")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only events of this kind in the store count, as buy. Repeatable. Default: all kinds."),
    ] = None,
    pseudonyms: Annotated[
        Path | None, typer.Option(help="File of the key by which the store hides its users' ids.")
    ] = None,
) -> dict[str, object]:
    """Which store: fields of `llmgen.workspace.core.DataSettings`, those that were given."""
    given = {"store": store, "kinds": tuple(kind or ()), "pseudonyms": pseudonyms}
    return {name: value for name, value in given.items() if value}


def data_given(**given: Any) -> dict[str, object]:
    """Which data: all options of `tables_given` and `store_given`."""
    of_store = {name: given.pop(name) for name in inspect.signature(store_given).parameters if name in given}
    return {**tables_given(**given), **store_given(**of_store)}


vars(data_given)["__signature__"] = inspect.Signature(
    [one for group in (tables_given, store_given) for one in inspect.signature(group).parameters.values()]
)


@wraps(tables_given)
def table_settings(**given: Any) -> DataSettings:
    """Tables or a named data set as settings, with the defaults for what was not given."""
    from llmgen.workspace.core import DataSettings

    return DataSettings.parse(tables_given(**given))


@wraps(data_given)
def data_settings(**given: Any) -> DataSettings:
    """Any data as settings, with the defaults for what was not given."""
    from llmgen.workspace.core import DataSettings

    return DataSettings.parse(data_given(**given))


def pair(text: str, option: str, form: str) -> tuple[str, str]:
    """The two sides of an option's value.

    Raises:
        ConfigError: It is of another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ConfigError(f"{option} wants {form}, not {text!r}")
    return name, value


def read_weights(texts: Sequence[str], option: str) -> dict[str, float]:
    """Name -> weight, of `name=weight` each; `none` alone is none.

    Raises:
        ConfigError: Another form.
    """
    found = {}
    for words in () if list(texts) == ["none"] else texts:
        name, value = pair(words, option, "name=weight")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"{option} {words}: the weight must be a number, not {value!r}") from None
    return found


def read_priors(texts: Sequence[str], option: str = "--prior") -> dict[str, float | dict[str, PriorValue]]:
    """Name -> weight or settings, of `name=weight` or `name:setting=value,setting=value` each; `none` alone is none.

    Raises:
        ConfigError: Another form.
    """
    found: dict[str, float | dict[str, PriorValue]] = {}
    for words in () if list(texts) == ["none"] else texts:
        name, colon, rest = words.partition(":")
        if not colon or "=" in name:
            found |= read_weights([words], option)
            continue
        given = dict(pair(part, option, "name:setting=value,setting=value") for part in rest.split(","))
        found[name] = {key: _value(text) for key, text in given.items()}
    return found


def read_options(words: Sequence[str], flags: Collection[str]) -> dict[str, object]:
    """Settings from options as the commands take them, such as `--prompt next_item --prior transition=1.0 --exact`.

    Args:
        words: As a shell splits them.
        flags: Settings that need no value.

    Raises:
        ConfigError: A word that belongs to no option, or an option without its value.
    """
    given: dict[str, list[str]] = {}
    option = ""
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            given.setdefault(option, []).extend([value] if equals else [])
            option = "" if equals else option
        elif option:
            given[option].append(word)
            option = ""
        else:
            raise ConfigError(f"{word!r} belongs to no option; write --option value")
    found: dict[str, object] = {}
    for option, values in given.items():
        name = option.removeprefix("--").replace("-", "_")
        if not values and name not in flags:
            raise ConfigError(f"{option} has no value; write {option} value")
        if name == "prior":
            found["priors"] = read_priors(values, option)
        elif name == "rating_prior":
            found["rating_priors"] = read_weights(values, option)
        else:
            found[name] = tuple(values) if len(values) > 1 else values[0] if values else True
    return found


def _value(text: str) -> PriorValue:
    """A setting as a whole number, a number, true or false, or text."""
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    return dict(pair(text, option, "ours=yours") for text in texts or ())
