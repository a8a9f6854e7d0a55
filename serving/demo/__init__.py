"""The main job: train a nested checkpoint, serve it, load it with and without a co-runner, print the table."""
