"""Every exception of llmgen.

    LLMGenError
    ├── ConfigError                 settings, flags, files that configure
    ├── DataError                   a data file or download is not what it should be
    │   └── DownloadError           a file could not be fetched, or is not the file that was asked for
    ├── CatalogError                the catalog is unusable or asked for the impossible
    │   └── UnknownItemError        an id that is not in the catalog
    ├── TemplateError               a prompt file is wrong
    │   ├── TemplateNotFoundError   no prompt of that name
    │   └── MissingVariableError    a prompt wants a variable that was not given
    ├── EngineError                 the language model's side
    │   ├── EngineUnavailableError  a package or model that is not installed here, or an engine that is down
    │   └── GenerationError         the model gave no usable answer
    ├── StoreError                  the database of a store does not answer
    ├── TrainingError               a training run cannot go on
    ├── SearchError                 nothing can be recommended: no item is eligible
    └── APIError                    the service, as its client sees it
        ├── APIConnectionError      it cannot be reached, or hung up
        ├── APITimeoutError         it did not answer in time
        └── APIStatusError          it answered with an error of its own; `status` and `request_id` tell which

Wrong arguments are `ValueError`; those that people give on a command line are `ArgumentError`, which is one too. Any
other exception is a bug of llmgen or of what it uses. Messages say what was wrong, with the value, and what to do.
"""

import warnings
from typing import TypeVar

Named = TypeVar("Named")


def renamed(old: str, new: str, what: Named) -> Named:
    """What an old name stands for, with a DeprecationWarning; the old name goes with the next release."""
    warnings.warn(f"{old} is now called {new}; the old name goes with the next release", DeprecationWarning, 3)
    return what


class ArgumentError(ValueError):
    """A value that was given is out of range or of the wrong form."""


class LLMGenError(Exception):
    """Base of every error that llmgen raises on purpose."""


class ConfigError(LLMGenError):
    """A setting, a flag or a configuration file is wrong."""


class DataError(LLMGenError):
    """A data file or a download is not what it should be."""


class DownloadError(DataError):
    """A file could not be fetched, or is not the file that was asked for."""


class CatalogError(LLMGenError):
    """The catalog is unusable, or was asked for the impossible."""


class CatalogTooLargeError(CatalogError):
    """A model that grows with the square of the items was asked for too many."""


class UnknownItemError(CatalogError):
    """An item id that is not in the catalog."""


class TemplateError(LLMGenError):
    """A prompt file is wrong."""


class TemplateNotFoundError(TemplateError):
    """No prompt has that name."""


class MissingVariableError(TemplateError):
    """A prompt wants a variable that was not given."""


class EngineError(LLMGenError):
    """The language model's side failed."""


class EngineUnavailableError(EngineError):
    """A package or a model that is not installed here, or an engine that is down; asking again may help then."""


class GenerationError(EngineError):
    """The model gave no usable answer."""


class StoreError(LLMGenError):
    """The database of a store cannot be reached or failed; asking again may help."""


class TrainingError(LLMGenError):
    """A training run cannot go on; its earlier checkpoints are whole."""


class SearchError(LLMGenError):
    """Nothing can be recommended: no item is eligible."""


class APIError(LLMGenError):
    """The service could not be asked, or did not answer as it should."""


class APIConnectionError(APIError):
    """The service cannot be reached, or hung up before it had answered."""


class APITimeoutError(APIError):
    """The service did not answer in time."""


class APIStatusError(APIError):
    """The service answered with an error that none of the library's own exceptions stands for.

    Attributes:
        status: The HTTP status.
        request_id: What the service's log calls the request; empty where it did not say.
    """

    def __init__(self, message: str, *, status: int, request_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id
