"""The retry as an app of its own, configured by environment variables; the log goes to standard error.

    flask --app adapters.flask_app run
    gunicorn --threads 40 'adapters.flask_app:create_app()'

A host app does the same few lines in its own factory. Nothing happens at import. Don't preload the app in gunicorn.
"""

import atexit
from logging.config import dictConfig

from flask import Flask

import ai_retry
from ai_retry.flask import create_blueprint


def create_app() -> Flask:
    """Make the app; raises ``NotConfigured``, which names every variable that is missing or malformed."""
    dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"lines": {"format": "%(asctime)s %(levelname)s %(message)s"}},
            "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines"}},
            "root": {"handlers": ["lines"]},
            "loggers": {"ai_retry": {"level": "INFO"}},
        }
    )
    settings = ai_retry.Settings.from_env()
    verify = ai_retry.verifier(settings).verify
    client = ai_retry.connect(settings)
    atexit.register(client.close)
    app = Flask(__name__)
    app.register_blueprint(create_blueprint(client, verify))
    return app
