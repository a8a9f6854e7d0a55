"""The limits on clients: connections, uploads, open calls, and the wait of their requests before the handlers."""
