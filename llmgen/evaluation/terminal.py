"""How the commands tell an error."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.text import Text

from llmgen.errors import LLMGenError


class exit_on_error:
    """Tells an error of ours on the terminal and ends with code 2."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, LLMGenError):
            Console(stderr=True).print(Text.assemble(("error: ", "red"), str(error)), soft_wrap=True)
            raise typer.Exit(2) from error
