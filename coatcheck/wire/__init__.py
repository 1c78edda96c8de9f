"""One pure file (or a few) a dialect: what its bodies look like, read and written. No HTTP server, no Redis."""
