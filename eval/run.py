"""`llmgen evaluate`, from a checkout."""

import sys

from llmgen.cli.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
