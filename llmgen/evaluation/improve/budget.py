"""What a search for a better prompt may cost: requests, hours of asking, money."""

from __future__ import annotations

from dataclasses import dataclass

from llmgen.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """Bounds of a search; None for no bound.

    Attributes:
        requests: Requests to the model that is asked, and to the one that proposes.
        hours: Of asking, on this machine. Earlier starts of the same search count.
        money: In any currency, for hours at `price_per_hour` and for the tokens of the model that proposes.
        price_per_hour: Of this machine.
        read_price: Of a million tokens that the model that proposes reads.
        written_price: Of a million tokens that it writes.
    """

    requests: int | None = None
    hours: float | None = None
    money: float | None = None
    price_per_hour: float | None = None
    read_price: float | None = None
    written_price: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and (value < 0 or (value == 0 and name in ("requests", "hours", "money"))):
                raise ConfigError(f"{name} must be above 0, not {value:g}")
        if self.money is not None and self.price_per_hour is None and not self.has_token_prices:
            raise ConfigError("a budget in money needs prices; give --price-per-hour, or --read-price and "
                              "--written-price for a model that proposes")  # fmt: skip

    @property
    def has_token_prices(self) -> bool:
        """Whether both prices of tokens are known."""
        return self.read_price is not None and self.written_price is not None

    @property
    def is_timed(self) -> bool:
        """Whether it must be known how long a request takes."""
        return self.hours is not None or (self.money is not None and self.price_per_hour is not None)

    def price(self, read: int, written: int) -> float:
        """Money for so many tokens; 0 where no prices are known."""
        return ((self.read_price or 0.0) * read + (self.written_price or 0.0) * written) / 1e6

    def seconds(self, money: float, seconds: float) -> float | None:
        """Seconds of asking that are left.

        Args:
            money: Spent on tokens.
            seconds: Spent already.
        """
        bounds = [] if self.hours is None else [3600 * self.hours]
        if self.money is not None and self.price_per_hour:
            bounds.append(3600 * (self.money - money) / self.price_per_hour)
        return min(bounds) - seconds if bounds else None

    def most_requests(self, each: float, proposed: int, money: float, seconds: float) -> int | None:
        """Requests that all of it allows, first ones included.

        Args:
            each: Seconds that one takes.
            proposed: Requests that went to the model that proposes.
            money: That went there.
            seconds: That went there.
        """
        bounds = [] if self.requests is None else [self.requests - proposed]
        left = self.seconds(money, seconds)
        if left is not None:
            bounds.append(int(left / each))
        return min(bounds, default=None)
