"""The web tier: Flask routes over `coatcheck.core`, behind a small RSGI shell that holds waits and streams."""
