"""The endpoint as a Flask blueprint: its routes, what it reads and writes, and its OpenAPI document."""

from ai_retry.flask.blueprint import create_blueprint
from ai_retry.flask.first_calls import Prompt

__all__ = ["Prompt", "create_blueprint"]
