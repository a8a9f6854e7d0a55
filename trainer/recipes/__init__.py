"""A training run as a TOML file: the recipe, its run, the record of the run, and the named recipes."""
