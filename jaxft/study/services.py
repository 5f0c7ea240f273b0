"""Services that all work of a study shares: the feature cache, the listener to events, the clock."""

from dataclasses import dataclass, field

from jaxft.config import Execution
from jaxft.core.events import Listener, print_warnings
from jaxft.core.timing import Clock
from jaxft.features.cache import FeatureCache, make_feature_cache


@dataclass(frozen=True)
class Services:
    """The feature cache, the listener to events, and the clock that adds up where the time goes.

    If `features` is None, activations of frozen prefixes are computed at every step, and not kept.
    """

    features: FeatureCache | None = None
    emit: Listener = print_warnings
    clock: Clock = field(default_factory=Clock)

    @property
    def cache(self) -> FeatureCache:
        """Returns the feature cache, for what is kept in any case."""
        return self.features or FeatureCache(Execution().feature_cache_bytes)


def make_services(
    execution: Execution,
    emit: Listener = print_warnings,
    clock: Clock | None = None,
    features: FeatureCache | None = None,
) -> Services:
    """Returns the services of a run; the cache has the run's budgets if `features` is None."""
    return Services(features or make_feature_cache(execution), emit, clock or Clock(emit))
