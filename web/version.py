"""Name and version of the service, as its answers tell them."""

from __future__ import annotations

NAME = "Coatcheck"
VERSION = "0.1.0"
