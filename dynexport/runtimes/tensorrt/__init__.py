"""TensorRT, in both its flavours: what is installed, building engines, running them."""

from dynexport.runtimes.tensorrt.editions import FLAVOURS, Flavour, find_flavour

__all__ = ["FLAVOURS", "Flavour", "find_flavour"]
