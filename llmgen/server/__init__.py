"""The HTTP service: `create_app(recommender)` makes an ASGI app; `llmgen serve` runs one with all that belongs to it.

app        the routes
batching   requests of many users, gathered and worked on together
live       the recommender that answers now; changes of its catalog
connection how large and how slow headers may be
gate       ids, keys, sizes and the log line of every request
metrics    what Prometheus reads
run        `llmgen serve`
"""

from llmgen.errors import EngineUnavailableError

try:
    from llmgen.server.app import Limits, create_app
    from llmgen.server.run import ServeSettings, run
except ModuleNotFoundError as error:
    raise EngineUnavailableError(f"the service needs {error.name}; install llmgen[serve]") from error

__all__ = ["Limits", "ServeSettings", "create_app", "run"]
