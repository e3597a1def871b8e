"""RequestWeight: a weight of the language model for each request, from what is known before the model is asked.

One weight for all requests is wrong for most of them: where a user is new or the prior is flat the model knows more
than the prior, where the prior is sure it knows less. So the weight is a function of three numbers of a request:

* `history_length`: log(1 + items of the history);
* `prior_entropy`: entropy, in nats, of the prior over the eligible items;
* `cold_share`: the share of the eligible items that nobody took.

    log lm_weight = bias + sum over features of slope * (clip(value, low, high) - mean) / scale

It is above 0, and a feature goes no further than it did in the fit. It is the same for all items of a request, so the
search and its proof are what they are with one weight for all. See `llmgen.recommend.weighing` for the fit.

Source: mixtures whose weights depend on the context: Jelinek and Mercer, 1980 (by classes of contexts); Klakow, 1998
(log-linear interpolation of language models, which is our formula); Hsu, 2007 (generalised linear interpolation: the
weights are log-linear in features of the context, and are fitted by the likelihood of held-out text).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema

from llmgen.errors import ConfigError
from llmgen.types import FloatArray, Query

MOST = 1_000.0
"""No weight may be larger: a file that allows more is damaged."""

Number = Annotated[float, Field(allow_inf_nan=False)]


class Features(NamedTuple):
    """What is known of a request before the model is asked; see the module."""

    history_length: float
    prior_entropy: float
    cold_share: float


class Slope(BaseModel):
    """What one feature does to the logarithm of the weight.

    Attributes:
        slope: Change of log weight for one standard deviation of the feature; 0 leaves the feature out.
        mean: Of the feature over the requests of the fit.
        scale: Its standard deviation there, above 0.
        low: Its smallest value there; smaller ones count as this one.
        high: Its largest value there, likewise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: Number = 0.0
    mean: Number = 0.0
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    low: Number = 0.0
    high: Number = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Slope:
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g} and high is {self.high:g}; low must not be above high")
        return self

    def standardised(self, value: float) -> float:
        """A value of the feature in standard deviations from its mean, no further out than in the fit."""
        return (min(max(value, self.low), self.high) - self.mean) / self.scale

    @property
    def most(self) -> float:
        """The most that the feature adds to the logarithm of the weight."""
        return max(self.slope * self.standardised(value) for value in (self.low, self.high))


class RequestWeight(BaseModel):
    """A weight of the language model for each request; see the module. Equal ones are equal, and can be keys.

    Attributes:
        bias: Log weight of a request whose features are at their means.
        history_length: See the module, as the two below.
        prior_entropy: In nats.
        cold_share: From 0 to 1.

    Raises:
        ValueError: A number that is none, a scale that is not above 0, or weights above 1,000.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bias: Number
    history_length: Slope = Slope()
    prior_entropy: Slope = Slope()
    cold_share: Slope = Slope()

    @model_validator(mode="after")
    def _bounded(self) -> RequestWeight:
        most = self.bias + sum(one.most for one in self.slopes)
        if most > math.log(MOST):
            raise ValueError(f"the weight may grow to exp({most:.3g}); it must stay below {MOST:g}")
        return self

    @property
    def slopes(self) -> tuple[Slope, Slope, Slope]:
        """One a feature, in the order of `Features`."""
        return self.history_length, self.prior_entropy, self.cold_share

    @property
    def usual(self) -> float:
        """The weight of a request whose features are at their means, for places that have room for one number."""
        return math.exp(self.bias)

    @property
    def reads_prior(self) -> bool:
        """Whether the weight depends on the prior of a request, and not on its history alone."""
        return bool(self.prior_entropy.slope or self.cold_share.slope)

    @property
    def reads_log(self) -> bool:
        """Whether it must be known which items were taken."""
        return self.cold_share.slope != 0

    def at(self, features: Features) -> float:
        """The weight of a request with these features."""
        terms = (one.slope * one.standardised(value) for one, value in zip(self.slopes, features, strict=True))
        return math.exp(self.bias + sum(terms))

    @classmethod
    def of(cls, given: Mapping[str, Any], where: str = "the weight for each request") -> RequestWeight:
        """From the mapping of a file of settings.

        Raises:
            ConfigError: It is not such a mapping; one message says all that is wrong.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            told = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'all'}: {one['msg'].removeprefix('Value error, ')}"
                for one in error.errors()
            )
            raise ConfigError(f"{where} is not bias, history_length, prior_entropy and cold_share: {told}") from None

    @classmethod
    def read(cls, path: Path | str) -> RequestWeight:
        """From a file that `write` wrote.

        Raises:
            ConfigError: The file is not there, or holds something else.
        """
        try:
            given = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"lm_weight is a number, or a JSON file of a weight for each request; cannot read {str(path)!r}: "
                f"{error.strerror}"
            ) from None
        except ValueError as error:  # of JSON, and of the encoding
            raise ConfigError(f"{path} is no JSON file of a weight for each request: {error}") from None
        if not isinstance(given, Mapping):
            raise ConfigError(f"{path} holds no weight for each request: it must be a JSON object, not {given!r:.60}")
        return cls.of(given, str(path))

    def write(self, path: Path | str) -> None:
        """As JSON, for `lm_weight` of settings and for `--lm-weight`."""
        Path(path).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


class _GivenWeight:
    """Reads `lm_weight` of settings: a number, a mapping, the name of a file, or what it is already."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        number = handler.generate_schema(Annotated[float, Field(ge=0, allow_inf_nan=False)])
        written = core_schema.plain_serializer_function_ser_schema(plain)
        return core_schema.no_info_wrap_validator_function(_given, number, serialization=written)


LMWeight = Annotated[float | RequestWeight, _GivenWeight()]
"""A weight of the model as settings have it."""


def _given(value: object, number: core_schema.ValidatorFunctionWrapHandler) -> float | RequestWeight:
    if isinstance(value, RequestWeight):
        return value
    try:
        if isinstance(value, Mapping):
            return RequestWeight.of(value)
        if isinstance(value, str | Path) and not _is_number(str(value)):
            return RequestWeight.read(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return cast(float, number(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def plain(weight: float | RequestWeight) -> float | dict[str, Any]:
    """A weight as JSON has it."""
    return weight.model_dump() if isinstance(weight, RequestWeight) else weight


def features_of(query: Query, log_prior: FloatArray | None, taken: NDArray[np.bool_] | None) -> Features:
    """What is known of a request.

    Args:
        query: With its history.
        log_prior: Natural log of the item prior, float64 [n_items]; -inf for an item that is not eligible. None where
            only the history counts.
        taken: bool [n_items], whether anybody took the item; None where that is not known, which counts as if all were.
    """
    length = math.log1p(len(query.history))
    if log_prior is None:
        return Features(length, 0.0, 0.0)
    eligible = log_prior > -np.inf
    values = log_prior[eligible]
    if not len(values):
        return Features(length, 0.0, 0.0)
    values = values - values.max()
    weights = np.exp(values)
    total = weights.sum()
    entropy = float(np.log(total) - (weights @ values) / total)
    cold = 0.0 if taken is None else float(np.count_nonzero(~taken[eligible]) / len(values))
    return Features(length, max(entropy, 0.0), cold)
