"""TensorRT, in both its flavours: what is installed, building engines, running them."""

from dynexport.backends.tensorrt.flavours import FLAVOURS, Flavour, find_flavour

__all__ = ["FLAVOURS", "Flavour", "find_flavour"]
