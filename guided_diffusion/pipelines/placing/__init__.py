"""Defects in good images: which go where, their pixels, and the folders of `place` and `paste`."""
