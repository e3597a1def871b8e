"""What /metrics shows, in Prometheus' format."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llmgen.types import Answer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and histograms of one app.

    Args:
        queued: Tells how many requests wait.
        usage: Tells how many prompt tokens the engine has read, and how many it did not have to read again.
    """

    def __init__(self, queued: Callable[[], int], usage: Callable[[], tuple[int, int]]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("llmgen_requests", "Requests answered.", ("route", "status"), registry=self.registry)
        self.seconds = Histogram(
            "llmgen_request_seconds", "Time to the answer.", ("route",), buckets=SECONDS, registry=self.registry
        )
        self.waits = Histogram(
            "llmgen_queue_seconds", "Time before work began.", buckets=SECONDS, registry=self.registry
        )
        sizes = (1, 2, 4, 8, 16, 32, 64, 128)
        self.batches = Histogram(
            "llmgen_batch_size", "Requests worked on together.", buckets=sizes, registry=self.registry
        )
        self.prompt_tokens = Counter(
            "llmgen_prompt_tokens", "Tokens of the prompts of answers.", registry=self.registry
        )
        self.rounds = Counter("llmgen_rounds", "Questions to the language model, a user each.", registry=self.registry)
        self.answers = Counter(
            "llmgen_answers", "Lists by whether they are proven to be the best.", ("exact",), registry=self.registry
        )
        self.places = Counter(
            "llmgen_places", "Recommended items by how they were found.", ("method",), registry=self.registry
        )
        self.disconnects = Counter(
            "llmgen_disconnects", "Clients that hung up before their answer.", registry=self.registry
        )
        self.refused = Counter(
            "llmgen_refused", "Requests turned away since the queue was full.", registry=self.registry
        )
        self.swaps = Counter("llmgen_catalog_changes", "Changes of the catalog.", registry=self.registry)
        Gauge("llmgen_queue", "Requests that wait.", registry=self.registry).set_function(queued)
        read = Gauge("llmgen_engine_read_tokens", "Prompt tokens that the engine has read.", registry=self.registry)
        kept = Gauge(
            "llmgen_engine_cached_tokens", "Prompt tokens that it did not have to read again.", registry=self.registry
        )
        read.set_function(lambda: usage()[0])
        kept.set_function(lambda: usage()[1])

    def fitted(self, at: Callable[[], float]) -> None:
        """Show when the data were read that the priors in use are fitted on."""
        gauge = Gauge(
            "llmgen_priors_fitted_seconds",
            "When the data of the priors were read, seconds since 1970.",
            registry=self.registry,
        )
        gauge.set_function(at)

    def batch(self, waits: Sequence[float]) -> None:
        """Count a batch whose jobs had waited so long."""
        self.batches.observe(len(waits))
        for wait in waits:
            self.waits.observe(wait)

    def answer(self, answer: Answer) -> None:
        """Count a list."""
        self.prompt_tokens.inc(answer.prompt_tokens)
        self.rounds.inc(answer.num_rounds)
        self.answers.labels("yes" if answer.exact else "no").inc()
        for method, count in collections.Counter(place.grounding.method for place in answer).items():
            self.places.labels(method).inc(count)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
