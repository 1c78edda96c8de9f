"""Programs that show Coatcheck at work on real data. They use the public HTTP API only."""
