"""Asks the AI provider something that costs nothing."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from ai_retry.cli.doctor.outside import Asked
from ai_retry.config import Settings
from ai_retry.domain.model import Failure
from ai_retry.providers.address import KeyAuth
from ai_retry.providers.bodies import mapping, parse, read_text
from ai_retry.providers.classify import Reply, classify, is_web_page
from ai_retry.providers.redaction import Redactor

_PATIENCE = 5.0  # seconds to connect, again for the answer to begin, and again for its body
_MOST_READ = 1024 * 1024  # bytes of a body; pages and error texts are shorter
_CHUNK = 65536  # bytes read at once
_QUESTIONS = {"openrouter.ai": "key"}  # its list of models needs no key, and so says nothing about it
_ENDINGS = ("/chat/completions", "/completions", "/models")  # which a base address must not have
_MEMBERS = ("data", "models", "object")
_NOTHING_KNOWN = "what answers there with success is no list of models"
_BASES = ("/v1", "/api/v1")  # of OpenAI and most servers; of OpenRouter and Open WebUI


def ask(settings: Settings) -> Asked:
    """Ask for the list of models, with the key. Where something else than the API answers, look for its address."""
    question = _QUESTIONS.get(urlsplit(settings.ai_base_url).hostname or "", "models")
    try:
        reply = _get(settings, f"{settings.ai_base_url}/{question}")
    except requests.exceptions.SSLError:
        return Asked(None, certificate_refused=True)
    except (requests.RequestException, HTTPError, ValueError, OSError):
        return Asked(None)
    other = _something_else(settings, reply)
    if other is None:
        return Asked(reply.status)
    better = (base for base in _other_bases(settings.ai_base_url) if _lists_models(settings, base))
    return Asked(reply.status, something_else=other, better_base=next(better, None))


def _get(settings: Settings, url: str) -> Reply:
    with requests.get(
        url,
        params=dict(settings.ai_query),
        headers={"User-Agent": "ai-retry", **settings.ai_headers},
        auth=KeyAuth(settings.ai_auth_header, settings.ai_api_key),
        timeout=_PATIENCE,
        allow_redirects=False,
        stream=True,
    ) as response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(status=response.status_code, headers=headers, body=_body(response))


def _body(response: requests.Response) -> bytes:
    body, began = bytearray(), time.monotonic()
    while len(body) < _MOST_READ and time.monotonic() - began < _PATIENCE:
        chunk = response.raw.read1(_CHUNK, decode_content=True)
        if not chunk:
            break
        body += chunk
    return bytes(body)


def _something_else(settings: Settings, reply: Reply) -> str | None:
    """Say what shows that the API is not at this address; None if nothing does. The rules are those of a call."""
    page = reply.status >= requests.codes.bad_request and is_web_page(read_text(reply.body), reply.headers)
    if reply.status not in (requests.codes.ok, requests.codes.not_found) and not page:
        return None
    secrets = [settings.ai_api_key or "", *settings.ai_headers.values()]
    redactor = Redactor(prompt=[], secrets=secrets)
    judged = classify(reply, schema=None, now=datetime.now(UTC), redactor=redactor)
    if isinstance(judged, Failure) and judged.operator_fault:
        return judged.reason
    return None if reply.status != requests.codes.ok or _is_of_an_api(reply) else _NOTHING_KNOWN


def _is_of_an_api(reply: Reply) -> bool:
    """Whether it is a list, or a document with one of the members that APIs answer a list of models or a key with."""
    document = parse(reply.body.decode(errors="replace"))
    return isinstance(document, list) or not mapping(document).keys().isdisjoint(_MEMBERS)


def _other_bases(base: str) -> Iterator[str]:
    """Guess: without an ending that is too much, then with one that is missing, below the address and on its host."""
    host = urljoin(base, "/").rstrip("/")
    ended = [base.removesuffix(ending) for ending in _ENDINGS if base.endswith(ending)]
    yield from (each for each in dict.fromkeys([*ended, *_below(base), *_below(host)]) if each != base)


def _below(base: str) -> list[str]:
    return [base + more for more in _BASES]


def _lists_models(settings: Settings, base: str) -> bool:
    try:
        reply = _get(settings, f"{base}/models")
    except (requests.RequestException, HTTPError, ValueError, OSError):
        return False
    listed = parse(reply.body.decode(errors="replace"))
    return reply.status == requests.codes.ok and isinstance(mapping(listed).get("data", listed), list)
