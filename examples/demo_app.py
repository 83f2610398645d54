"""The app of the demo: the blueprint, and how a user's wish becomes a prompt.

A wish is a few words; what else the model needs to know, the app adds.
"""

import atexit
from typing import Any

from flask import Flask
from marshmallow import Schema, fields, validate

import ai_retry
from ai_retry.bootstrap import verifier
from ai_retry.config import Settings
from ai_retry.flask import create_blueprint


class Wish(Schema):
    """What a user may send."""

    wish = fields.String(required=True, validate=validate.Length(1, 200))


def prompt_from(body: dict[str, Any]) -> dict[str, Any]:
    """Turn a wish into a prompt, as it is stored; what is no wish is refused with its fields."""
    return prompt(Wish().load(body)["wish"])


def prompt(wish: str) -> dict[str, Any]:
    """Write the prompt."""
    return {
        "messages": [
            {"role": "system", "content": "You write short training sessions as JSON."},
            {"role": "user", "content": "A long ride."},  # two examples, from which even a small model learns the form
            {"role": "assistant", "content": '{"title": "Long ride", "minutes": 90}'},
            {"role": "user", "content": "A short swim."},
            {"role": "assistant", "content": '{"title": "Short swim", "minutes": 20}'},
            {"role": "user", "content": wish},
        ],
        "parameters": {"max_tokens": 80, "temperature": 0},
        "response_schema": {
            "type": "object",
            "properties": {"title": {"type": "string", "pattern": "^.{1,60}$"}, "minutes": {"type": "integer"}},
            "required": ["title", "minutes"],
            "additionalProperties": False,
        },
    }


def create_app() -> Flask:
    """Make the app."""
    settings = Settings.from_env()
    client = ai_retry.connect(settings)
    atexit.register(client.close)
    app = Flask(__name__)
    app.register_blueprint(create_blueprint(client, verifier(settings).verify, prompt_from=prompt_from))
    return app
