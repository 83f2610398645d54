"""A console for the person on call, as a Flask blueprint: pages over ``ai_retry.operate``, which decide nothing.

It needs Flask and nothing else: no session, no JavaScript build, no request to another site.
"""

from ai_retry.flask.console.blueprint import create_console

__all__ = ["create_console"]
