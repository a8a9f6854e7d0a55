"""Data sets for training: images, spoken words, and the names that a recipe knows them by."""
