"""The Server scenario of MLPerf LoadGen against a server of the Open Inference Protocol."""
