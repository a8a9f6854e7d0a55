"""A training run as a TOML file: the recipe, its run, and the record of it. The named recipes lie beside."""
