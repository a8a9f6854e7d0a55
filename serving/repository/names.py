"""Names: those of the folders and files of a model directory, MODEL/VERSION/model.safetensors."""

import re

MODEL_FILE = "model.safetensors"
"""Name of the checkpoint in the folder of a version."""
VERSION_NAME = re.compile(r"[1-9][0-9]{0,18}")
"""The name of a version's folder: a whole number above 0. As in Triton, all other names are no versions."""
