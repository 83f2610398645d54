"""A Flask view that asks the provider and returns what it says, and does nothing else: what any endpoint costs.

It verifies no token, stores nothing, counts no quota and checks no schema. It keeps its connections to the provider.
"""

import os
from typing import Any

import requests
from flask import Flask, Response

from benchmarks.asking import chat_request


def create_app() -> Flask:
    """Make the app."""
    app = Flask(__name__)
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
    url = f"{os.environ['AI_BASE_URL']}/chat/completions"

    @app.post("/<any(plain, shaped):kind>")
    def ask(kind: str) -> Any:
        reply = session.post(url, json=chat_request(shaped=kind == "shaped"), timeout=15)
        return Response(reply.json()["choices"][0]["message"]["content"], mimetype="application/json")

    return app
