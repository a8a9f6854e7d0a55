"""Repository: a folder of models with versions, which are loaded and unloaded while the server runs."""
