"""Programs for those who work on Coatcheck: set-up, lock file, diagram."""
