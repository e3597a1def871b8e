"""The old place of `llmgen.templates.tasks`; it goes with the next release."""

import warnings

from llmgen.templates.tasks import *  # noqa: F403

warnings.warn(
    "llmgen.tasks is now llmgen.templates.tasks; the old name goes with the next release", DeprecationWarning, 2
)
