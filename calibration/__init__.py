"""Images in: folders and arrays to the batches a model takes."""

from dynexport.calibration.images import load_images, synthetic_images
from dynexport.calibration.preprocessing import Preprocessing

__all__ = ["Preprocessing", "load_images", "synthetic_images"]
