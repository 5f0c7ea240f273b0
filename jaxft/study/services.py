"""Services that all jobs of a process share: the feature cache, the event listener and the clock."""

from dataclasses import dataclass, field

from jaxft.config import Execution
from jaxft.core.events import Listener, print_warnings
from jaxft.core.timing import Clock
from jaxft.features.cache import FeatureCache, make_feature_cache


@dataclass(frozen=True)
class Services:
    """The services of a process.

    Attributes:
      features: cache of activations of frozen prefixes; if None, every step computes them.
      emit: the event listener.
      clock: adds up the seconds of each activity.
    """

    features: FeatureCache | None = None
    emit: Listener = print_warnings
    clock: Clock = field(default_factory=Clock)

    @property
    def cache(self) -> FeatureCache:
        """Returns the feature cache, or a new one for features that must be cached."""
        return self.features or FeatureCache(Execution().feature_cache_bytes)


def make_services(
    execution: Execution,
    emit: Listener = print_warnings,
    clock: Clock | None = None,
    features: FeatureCache | None = None,
) -> Services:
    """Returns the services of a process.

    Args:
      execution: the section `execution` of the config, with the budgets of the cache.
      emit: the event listener.
      clock: if None, a new clock.
      features: if None, a new cache with the budgets of `execution`.
    """
    return Services(features or make_feature_cache(execution), emit, clock or Clock(emit))
