"""`llmgen compare`, from a checkout."""

import sys

from llmgen.cli.main import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
