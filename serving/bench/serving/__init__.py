"""Load tests of a running server: open-loop load, co-runners, verified answers, scores over all offered requests."""
