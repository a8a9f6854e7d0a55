"""Load tests: open loop, co-runners, targets, verification."""
