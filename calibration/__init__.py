"""Images in: folders and arrays to the batches a model takes."""

from dynexport.calibration.images import DAMAGED_NPZ, load_images, synthetic_images
from dynexport.calibration.preprocessing import Preprocessing

__all__ = ["DAMAGED_NPZ", "Preprocessing", "load_images", "synthetic_images"]
