"""What clients may hold of the server: connections, uploads, calls, and the time they have waited in front."""
