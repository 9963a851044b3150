"""`segment`: pixel classifiers on the features of a network label many images from a few labeled ones."""
