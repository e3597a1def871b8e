"""`python -m llmgen` is `llmgen`."""

from llmgen.cli import main

main()
