"""A host with the console under a prefix, for browsers; it answers with its metrics, too."""

import atexit
import os
from pathlib import Path
from typing import NoReturn

from flask import Flask

import ai_retry
from ai_retry.auth import Unauthenticated
from ai_retry.flask import create_blueprint, create_console
from ai_retry.telemetry import PrometheusEvents
from tests.helpers.console_host import signed_in

PREFIX = "/ops/retries"


def _nobody(_: str) -> NoReturn:
    raise Unauthenticated


def create_app() -> Flask:
    """Make the app."""
    metrics = PrometheusEvents(models=["small"])
    client = ai_retry.connect(on_event=metrics)
    atexit.register(client.close)
    app = Flask(__name__)
    app.secret_key = os.environ["CONSOLE_KEY"]
    plans = Path(os.environ["CONSOLE_PLANS"])
    app.register_blueprint(create_console(client, signed_in, url_prefix=PREFIX, plans=plans))
    app.register_blueprint(create_blueprint(client, _nobody, metrics=metrics.exposition(client.queue_state)))
    return app
