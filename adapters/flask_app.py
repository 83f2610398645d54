"""The retry as an app of its own, configured by environment variables.

    flask --app adapters.flask_app run
    gunicorn --threads 40 'adapters.flask_app:create_app()'

A host app does the same few lines in its own factory. Nothing happens at import. Don't preload the app in gunicorn:
each worker needs connections of its own.
"""

import atexit

from flask import Flask

import ai_retry
from ai_retry.flask import create_blueprint


def create_app() -> Flask:
    """Make the app.

    Raises:
        NotConfigured: names every variable that is missing or malformed.
    """
    settings = ai_retry.Settings.from_env()
    verify = ai_retry.verifier(settings).verify
    client = ai_retry.connect(settings)
    atexit.register(client.close)
    app = Flask(__name__)
    app.register_blueprint(create_blueprint(client, verify))
    return app
