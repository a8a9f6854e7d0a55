"""The verbs of the command line, one file each; heavy imports wait until the verb runs."""
