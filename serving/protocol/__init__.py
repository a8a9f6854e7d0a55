"""Between the bytes of the Open Inference Protocol and numpy arrays, within bounds."""
