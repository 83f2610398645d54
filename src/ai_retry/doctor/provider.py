"""Asks the AI provider something that costs nothing."""

from urllib.parse import urlsplit

import requests

from ai_retry.config import Settings
from ai_retry.doctor.outside import Asked
from ai_retry.providers.http import KeyAuth

_PATIENCE = 5.0  # seconds to connect, and again for the answer to begin
_QUESTIONS = {"openrouter.ai": "key"}  # its list of models needs no key, and so says nothing about it


def ask(settings: Settings) -> Asked:
    """Ask for the list of models, with the key; tell the status of the answer, of which no body is read."""
    question = _QUESTIONS.get(urlsplit(settings.ai_base_url).hostname or "", "models")
    try:
        with requests.get(
            f"{settings.ai_base_url}/{question}",
            params=dict(settings.ai_query),
            headers={"User-Agent": "ai-retry", **settings.ai_headers},
            auth=KeyAuth(settings.ai_auth_header, settings.ai_api_key),
            timeout=_PATIENCE,
            allow_redirects=False,
            stream=True,
        ) as response:
            return Asked(response.status_code)
    except requests.exceptions.SSLError:
        return Asked(None, certificate_refused=True)
    except (requests.RequestException, ValueError, OSError):
        return Asked(None)
