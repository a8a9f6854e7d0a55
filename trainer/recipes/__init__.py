"""A training run as a TOML file: the recipe, its run, and the run's record. The named recipes are in this folder."""
