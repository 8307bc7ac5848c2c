"""TensorRT, in both its editions: what is installed, building engines, running them."""

from dynexport.runtimes.tensorrt.editions import EDITIONS, LIBRARIES, Edition, find_edition

__all__ = ["EDITIONS", "LIBRARIES", "Edition", "find_edition"]
