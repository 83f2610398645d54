"""The endpoint as a Flask blueprint: its routes, what it reads and writes, and its OpenAPI document."""

from ai_retry.flask.blueprint import create_blueprint

__all__ = ["create_blueprint"]
