"""Data sets for training: images and spoken words, with the names that a recipe uses for them."""
