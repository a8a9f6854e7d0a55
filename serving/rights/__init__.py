"""Rights: the calls that each client may make, by the token that it sends."""
