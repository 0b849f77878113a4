"""Numbers of the node in the forms Prometheus reads, computed when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector


@dataclass(frozen=True)
class Figure:
    """One metric with its samples.

    Attributes:
        name: As Prometheus wants it, ``medai_jobs``; counters end in ``_total``.
        help: One sentence with the unit.
        samples: Values by the values of `labels`; ``{(): 3.0}`` without labels. Label values are
            names from the settings, states and codes, never identifiers.
        labels: Names of the labels.
        kind: A counter only ever grows while the database lives; a gauge goes up and down.
    """

    name: str
    help: str
    samples: Mapping[tuple[str, ...], float]
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = field(default="gauge")


Figures = Callable[[], Iterable[Figure]]


class Exposition:
    """Renders figures in the exposition format that a scraper asks for.

    Args:
        figures: Called at each scrape, in a worker thread.
    """

    def __init__(self, figures: Figures) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Collected(figures))

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type.

        Args:
            accept: The request's Accept header.
        """
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type


class _Collected(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        for figure in self._figures():
            kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
            family = kind(figure.name, figure.help, labels=figure.labels)
            for values, number in figure.samples.items():
                family.add_metric(values, number)
            yield family
