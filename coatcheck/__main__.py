"""`python -m coatcheck`."""

from coatcheck.cli import main

main()
