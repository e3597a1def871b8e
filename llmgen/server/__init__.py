"""The HTTP service: `create_app(recommender)` makes an ASGI app; `llmgen serve` runs one with all that belongs to it.

app        the service and its settings (routes: what it answers; state: what they share; problems: errors as answers)
batching   requests of many users, gathered and worked on together
served     the recommender that answers now; changes of its catalog
connection how large and how slow headers may be
auth       ids, keys, sizes and the log line of every request
metrics    what Prometheus reads
run        `llmgen serve`
"""

from llmgen.errors import EngineUnavailableError

try:
    from llmgen.server.app import AppSettings, create_app
    from llmgen.server.run import ServeSettings, run
    from llmgen.server.state import Limits
except ModuleNotFoundError as error:
    raise EngineUnavailableError(f"the service needs {error.name}; install llmgen[serve]") from error

__all__ = ["AppSettings", "Limits", "ServeSettings", "create_app", "run"]
