"""Pictures to batches: folders, arrays and synthetic images, and the preprocessing of a model."""

from dynexport.images.arrays import DAMAGED_NPZ
from dynexport.images.image_set import (
    ImageSet,
    fill_batch,
    load_images,
    open_images,
)
from dynexport.images.preprocessing import Preprocessing
from dynexport.images.size import ImageSize
from dynexport.images.synthetic import synthetic_images

__all__ = [
    "DAMAGED_NPZ",
    "ImageSet",
    "ImageSize",
    "Preprocessing",
    "fill_batch",
    "load_images",
    "open_images",
    "synthetic_images",
]
