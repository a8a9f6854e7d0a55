"""The nested torch model: its nested layers, the weights that each level keeps, and the cost of a forward pass."""
