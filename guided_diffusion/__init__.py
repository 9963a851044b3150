"""ISDM: semantic diffusion models that enlarge scarce segmentation datasets."""

__version__ = "0.1.0"
