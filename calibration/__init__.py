"""The ranges of a model's values, read off images: what int8 is calibrated by."""

from dynexport.calibration.histogram import Histogram
from dynexport.calibration.ranges import Observation, RangeCache
from dynexport.calibration.threshold import (
    METHODS,
    Choice,
    choose_threshold,
    quantise,
    require_method,
    threshold,
)

__all__ = [
    "METHODS",
    "Choice",
    "Histogram",
    "Observation",
    "RangeCache",
    "choose_threshold",
    "quantise",
    "require_method",
    "threshold",
]
