"""`python -m llmgen` is `llmgen`."""

from llmgen.cli.main import main

main()
