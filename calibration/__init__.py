"""Images in: folders and arrays to the batches a model takes, and to the ranges of its values."""

from dynexport.calibration.arrays import DAMAGED_NPZ
from dynexport.calibration.histogram import Histogram
from dynexport.calibration.images import (
    ImageSet,
    fill_batch,
    load_images,
    open_images,
    synthetic_images,
)
from dynexport.calibration.preprocessing import Preprocessing
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
    "DAMAGED_NPZ",
    "METHODS",
    "Choice",
    "Histogram",
    "ImageSet",
    "Observation",
    "Preprocessing",
    "RangeCache",
    "choose_threshold",
    "fill_batch",
    "load_images",
    "open_images",
    "quantise",
    "require_method",
    "synthetic_images",
    "threshold",
]
