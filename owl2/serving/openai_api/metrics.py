"""Metrics in the format of Prometheus, in a registry of their own, so that a process may have two servers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from owl2.serving.engine.engine import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counts requests and times tokens; the rest is read from the engine on request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "owl2_requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self._seconds = {
            "time_to_first_token_seconds": Histogram(
                "owl2_time_to_first_token_seconds",
                "From the place in the engine to the first token.",
                buckets=_SECONDS,
                registry=self.registry,
            ),
            "inter_token_seconds": Histogram(
                "owl2_inter_token_seconds", "Between two tokens of an answer.", buckets=_SECONDS, registry=self.registry
            ),
        }

    def observe(self, name: str, value: float) -> None:
        self._seconds[name].observe(value)

    def watch(self, engine: "Engine") -> None:
        """Reports the state of an engine from now on."""
        self.registry.register(_EngineCollector(engine))

    def render(self) -> bytes:
        return generate_latest(self.registry)


class _EngineCollector:
    def __init__(self, engine: "Engine") -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, images = self.engine, self.engine.images
        gauges = {
            "owl2_answers_in_flight": ("Answers that are being written.", engine.in_flight),
            "owl2_requests_queued": ("Requests that wait for a place.", engine.admission.queued),
            "owl2_cache_free_ratio": ("Free share of the cache of keys and values.", engine.worker.free_cache),
            "owl2_image_cache_bytes": ("Memory of encoded images in use.", images.bytes_in_use),
            "owl2_image_cache_limit_bytes": ("Most that it may take.", images.capacity * images.bytes_per_image),
            "owl2_worker_up": ("1 while the worker runs.", float(engine.worker.is_alive)),
        }
        counters = {
            "owl2_prompt_tokens": ("Tokens of prompts.", engine.tokens_read),
            "owl2_answer_tokens": ("Tokens of answers.", engine.tokens_written),
            "owl2_worker_crashes": ("Crashes of the worker.", engine.crashes),
            "owl2_image_cache_hits": ("Images found encoded.", images.hits),
            "owl2_image_cache_misses": ("Images encoded.", images.misses),
            "owl2_image_cache_evictions": ("Images forgotten to make room.", images.evictions),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value=value)
