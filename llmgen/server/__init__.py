"""The HTTP service: `create_app(recommender)` makes an ASGI app; `llmgen serve` runs it."""

from llmgen.errors import EngineUnavailableError

try:
    from llmgen.server.app import Limits, create_app
except ImportError as error:
    raise EngineUnavailableError(f"the service needs fastapi and uvicorn ({error}); install llmgen[serve]") from error
from llmgen.server.gate import check_exposure, read_keys

__all__ = ["Limits", "check_exposure", "create_app", "read_keys"]
