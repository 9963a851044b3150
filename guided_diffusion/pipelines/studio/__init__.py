"""What the studio shows and makes: real pairs, good images, a network and its images, what a segmenter sees in them."""
