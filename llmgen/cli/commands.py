"""Commands that live in modules of their own, which are imported only when one of them is called.

Each module has a function `main`, whose parameters are the command's options (Typer), or which takes the arguments and
gives an exit code, as `llmgen.training.sft.main` does for the flags of TRL; or it has an `app` of several commands.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import typer

from llmgen.errors import ConfigError


class Command(NamedTuple):
    """A command.

    Attributes:
        module: With its function `main`.
        help: What it does, in one line.
        extra: Of this package, which brings what the module imports; empty where nothing more is needed.
        typed: Whether the parameters of `main` are the options.
        group: Whether there are several, in the module's `app`.
    """

    module: str
    help: str
    extra: str = ""
    typed: bool = True
    group: bool = False


COMMANDS: Mapping[str, Command] = {
    "train": Command("llmgen.training.sft", "Fine-tune a model on a catalog and its log.", "train", typed=False),
    "merge": Command("llmgen.training.merge", "Merge an adapter into its base model.", "hf"),
    "shrink": Command("llmgen.training.shrink", "Write an adapter in half precision, to hand it on.", "hf"),
    "tune": Command("llmgen.evaluation.baselines.core", "Choose priors and their weights on held-out items of a log."),
    "evaluate": Command("llmgen.evaluation.run", "Measure recommenders on a log, beside the classic baselines."),
    "ab": Command("llmgen.evaluation.ab", "Compare prompts, models or settings on the same users."),
    "compare": Command("llmgen.evaluation.comparison", "Compare two stored evaluations, without asking anyone again."),
    "report": Command("llmgen.evaluation.report.page", "Render the report of a stored evaluation again."),
    "store": Command(
        "llmgen.cli.store", "Import, export and look into a store of items and events.", "store", group=True
    ),
}


IMPROVE = Command("llmgen.evaluation.improve.core", "Search for a better prompt, and confirm it on other users.")
"""Of `llmgen prompts`."""


def add_to(app: typer.Typer) -> None:
    """Give an app all of these commands."""
    for name, command in COMMANDS.items():
        add(app, name, command, name)


def add(app: typer.Typer, name: str, command: Command, called: str) -> None:
    """Give an app one command, which is called so behind `llmgen`."""
    passed = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(name, help=command.help, context_settings=passed, add_help_option=False)(_caller(called, command))


def _caller(name: str, command: Command) -> Callable[[typer.Context], None]:
    def call(context: typer.Context) -> None:
        try:
            module = importlib.import_module(command.module)
        except ModuleNotFoundError as error:
            if not command.extra or (error.name or "").startswith("llmgen"):
                raise
            raise ConfigError(
                f"llmgen {name} needs {error.name}, which is not installed; pip install 'llmgen[{command.extra}]'"
            ) from None
        if not command.typed:
            raise typer.Exit(module.main(context.args))
        if command.group:
            inner = module.app
        else:
            inner = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
            inner.command(help=command.help)(module.main)
        inner(args=context.args, prog_name=f"llmgen {name}")

    return call
