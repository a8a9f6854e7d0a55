"""The export of a nested torch model to a checkpoint file: trace, fuse, tile, write, verify."""
