"""The old place of `llmgen.http.client`; it goes with the next release."""

import warnings

from llmgen.http.async_client import AsyncClient  # noqa: F401
from llmgen.http.client import *  # noqa: F403

warnings.warn("llmgen.client is now llmgen.http.client; the old name goes with the next release", DeprecationWarning, 2)
