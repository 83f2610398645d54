"""Our endpoint in an app that writes no line of log for a success, as the app of the earlier commits."""

import logging

from flask import Flask

from adapters import flask_app


def create_app() -> Flask:
    """Make the app; see ``adapters.flask_app``."""
    app = flask_app.create_app()
    logging.getLogger("ai_retry").setLevel(logging.WARNING)  # what Python's root logger has, where a host sets nothing
    return app
