"""`llmgen report`, from a checkout."""

import sys

from llmgen.cli.main import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
