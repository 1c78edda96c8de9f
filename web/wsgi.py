"""The application for any WSGI server: everything but waits and streams, which need the shell (`web/rsgi.py`)."""

from __future__ import annotations

import os

from flask import Flask

from coatcheck.core import open_core
from coatcheck.logs import configure_logs
from coatcheck.settings import Settings
from web.app import create_app


def create() -> Flask:
    """The application, from the environment."""
    settings = Settings.from_env(os.environ)
    configure_logs(settings, "web")
    return create_app(open_core(settings))
