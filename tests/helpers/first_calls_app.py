"""An app that makes first calls: what ``adapters.flask_app`` does, and how its requests become prompts."""

import atexit
from typing import Any

from flask import Flask
from marshmallow import Schema, fields, validate

from ai_retry.bootstrap import connect, verifier
from ai_retry.config import Settings
from ai_retry.flask import create_blueprint


class Wish(Schema):
    """What a user may ask for."""

    wish = fields.String(required=True, validate=validate.Length(1, 60_000))
    minutes = fields.Integer(strict=True, load_default=20, validate=validate.Range(5, 90))


WISH = Wish()


def prompt_from(body: dict[str, Any]) -> dict[str, Any]:
    """Ask for it."""
    asked = WISH.load(body)
    return {"messages": [{"role": "user", "content": f"{asked['minutes']} minutes: {asked['wish']}"}]}


def create_app() -> Flask:
    """Make the app."""
    settings = Settings.from_env()
    client = connect(settings)
    atexit.register(client.close)
    app = Flask(__name__)
    app.register_blueprint(create_blueprint(client, verifier(settings).verify, prompt_from=prompt_from))
    return app
