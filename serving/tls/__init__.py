"""TLS: certificates from files, read again when they change, and the refusal of public addresses without them."""
