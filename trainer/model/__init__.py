"""The nested torch model: which layers nest, which weights each level keeps, and what a forward pass costs."""
