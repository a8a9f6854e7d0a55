"""Conversion between the bytes of the Open Inference Protocol and requests of numpy arrays, within bounds."""
