"""How the code is cut: imports run one way, heavy libraries stay with their adapter, and pieces stay small."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ai_retry
from ai_retry.domain import errors as error_module

SOURCES = Path(ai_retry.__file__).parent
REPOSITORY = SOURCES.parents[1]

# Who may import whom of ours, lazily or not; each may import itself. What is missing here may import nothing of ours.
LAYERS = {
    "ai_retry": {
        *("auth", "bootstrap", "cli", "client", "clock", "config", "domain", "events", "problems", "providers"),
        *("operate", "recovery", "storage", "worker"),
    },
    "domain": set(),
    "storage": {"domain", "events", "logs", "secrecy"},
    "events": set(),
    "logs": {"events"},
    "hooks": {"domain", "events", "logs"},
    "watching": {"domain", "events", "problems"},
    "secrecy": set(),
    "deadline": {"domain", "secrecy"},
    "providers": {"deadline", "domain", "logs", "secrecy"},
    "auth": {"clock", "deadline", "domain", "logs"},
    "clock": set(),
    "provider_settings": {"domain"},
    "auth_settings": {"provider_settings"},
    "connection_settings": {"provider_settings"},
    "scalar_settings": {"provider_settings"},
    "webhook_settings": {"provider_settings"},
    "config": {
        *("auth_settings", "connection_settings", "domain", "provider_settings", "scalar_settings", "webhook_settings"),
    },
    "webhooks": {"clock", "config", "deadline", "domain", "events", "provider_settings", "secrecy", "webhook_settings"},
    "slots": {"domain"},
    "renewal": {"domain", "events", "logs"},
    "rejections": {"domain"},
    "looks": set(),
    "worker": {"config", "domain", "events", "logs", "looks", "rejections", "tables", "watching"},
    "watched": {"domain", "hooks", "storage", "watching"},
    "first_calls": {"domain", "hooks", "renewal", "slots", "watched"},
    "tables": set(),
    "recovery": {"domain", "rejections", "slots", "tables", "watching"},
    "listings": {"domain"},
    "operate": {"domain", "logs", "recovery", "tables"},
    "client": {
        *("clock", "config", "domain", "events", "first_calls", "hooks", "listings", "operate", "recovery", "renewal"),
        *("slots", "storage", "watching", "worker"),
    },
    "bootstrap": {
        *("auth", "client", "clock", "config", "domain", "events", "imported", "provider_settings"),
        *("providers", "recovery", "storage", "webhooks", "worker"),
    },
    "imported": {"domain"},
    "problems": {"domain"},
    "flask": {"auth", "client", "domain", "events", "hooks", "logs", "operate", "problems", "recovery"},
    "telemetry": {"domain", "events"},
    "cli": {
        *("bootstrap", "client", "clock", "config", "domain", "events", "flask", "logs", "operate", "providers"),
        "recovery",
        *("secrecy", "storage", "tables", "webhooks", "worker"),
    },
    "testing": {"domain"},
}

# Within the domain: what drives the loops and the ports they are driven over, the loops, and below them the decisions.
DRIVEN = {"domain.drive", "domain.first_call", "domain.listing", "domain.ports", "domain.queue", "domain.retry"}
LOOPS = {"domain.first_loop", "domain.loop", "domain.queue_loop"}

# Adapters of the same port know nothing of each other.
SEPARATE = [("storage.postgres", "storage.supabase"), ("storage.postgres", "storage.data_api")]

# Who may import which library; the rest of ours is the standard library.
LIBRARIES = {
    "apispec": {"flask.openapi"},
    "attrs": {"providers.dialect"},
    "click": {"cli.commands"},
    "flask": {"flask.blueprint", "flask.console", "flask.incoming"},
    "httpx": {"storage.data_api"},
    "jinja2": {"flask.console.rendering"},
    "jsonschema": {"providers.dialect", "providers.keywords"},
    "jwt": {"auth"},
    "markupsafe": {"flask.console.words"},
    "marshmallow": {"flask"},
    "matplotlib": {"recovery"},  # for types; imported by the notebook's functions
    "pandas": {"recovery"},
    "opentelemetry": {"telemetry.otel"},
    "postgrest": {"storage.data_api"},
    "prometheus_client": {"telemetry.database", "telemetry.prometheus"},
    "psycopg": {
        *("cli.init", "cli.rehearsal", "cli.doctor.around", "cli.doctor.link", "cli.doctor.rehearsing"),
        *("storage._connection_string", "storage._function_connection", "storage.listening"),
    },
    "psycopg_pool": {"storage._warm_pool", "storage.postgres"},
    "re2": {"providers.keywords"},
    "referencing": {"providers.dialect"},
    "requests": {
        *("auth", "deadline", "cli.doctor.provider", "providers.address", "providers.http", "providers.wire"),
        "webhooks.receiver",
    },
    "tenacity": {"providers.repeats"},
    "tqdm": {"recovery.progress"},
    "urllib3": {"deadline", "cli.doctor.provider", "providers.wire", "webhooks.receiver"},
    "werkzeug": {"flask.console", "flask.incoming"},
}

HEAVY = [
    *("flask", "httpx", "jsonschema", "jwt", "marshmallow", "matplotlib", "pandas", "psycopg", "pydantic", "requests"),
    *("opentelemetry", "postgrest", "prometheus_client", "supabase", "tqdm"),
]

MAX_MODULE_LINES = 300
LONG_MODULES = {
    "__init__.py": "every name of the façade, for type checkers and for whoever imports it",
    "domain/policy.py": "every rule, in one place",
    "domain/model.py": "the nouns of a retry",
    "events.py": "every event, in one place",
    "domain/errors.py": "every way in which a retry can end without a session",
    "auth.py": "tokens, keys and Auth's answers are one subject; half of it is contract",
    "testing/provider.py": "a server of one file, that tests can read in one go",
}

MAX_FUNCTION_LINES = 40  # without the docstring
LONG_FUNCTIONS: dict[str, str] = {}


def names() -> list[str]:
    """List the modules of the package, without its name: ``domain.policy``, ``flask``."""
    return sorted(
        ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix("__init__").rstrip(".") or "ai_retry"
        for path in SOURCES.rglob("*.py")
    )


def path_of(name: str) -> Path:
    """Find a module's file."""
    place = SOURCES if name == "ai_retry" else SOURCES / name.replace(".", "/")
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text())


@cache
def imports_of(name: str) -> frozenset[str]:
    """List what a module imports, in functions and for type checks too; of ours without the package's name."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path_of(name))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            assert node.module is not None
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def ours(name: str) -> Iterator[str]:
    """List the modules of ours that a module imports."""
    for imported in imports_of(name):
        if imported.split(".")[0] == "ai_retry":
            parts = imported.split(".")[1:]
            while parts and ".".join(parts) not in names():
                parts.pop()
            yield ".".join(parts) or "ai_retry"


def layer(name: str) -> str:
    """Name a module's layer."""
    return name.split(".", maxsplit=1)[0]


def libraries(name: str) -> set[str]:
    """List the libraries that a module imports, neither ours nor Python's own."""
    roots = {each.split(".")[0] for each in imports_of(name)}
    return roots - set(sys.stdlib_module_names) - {"ai_retry"}


@pytest.mark.parametrize("name", names())
def test_imports_run_one_way(name: str) -> None:
    """A module imports its own layer and those below, as section 6 of the design draws them."""
    allowed = LAYERS[layer(name)] | {layer(name)}

    assert {layer(each) for each in ours(name)} <= allowed


def test_layers_have_no_cycle() -> None:
    """The table above is an order: one comes last."""
    left = {each: set(below) for each, below in LAYERS.items()}
    while left:
        lowest = {each for each, below in left.items() if not below & left.keys()}
        assert lowest, f"a cycle among {sorted(left)}"
        left = {each: below for each, below in left.items() if each not in lowest}


@pytest.mark.parametrize("name", [each for each in names() if layer(each) == "domain"])
def test_domain_imports_only_the_standard_library(name: str) -> None:
    """The rules need nothing that has to be installed."""
    assert libraries(name) == set()


@pytest.mark.parametrize("name", [each for each in names() if layer(each) == "domain" and each not in DRIVEN])
def test_loops_know_no_port_and_decisions_no_loop(name: str) -> None:
    """What is decided needs no storage, and what is to be done next no driver: any kind of driver can do it."""
    below = set() if name in LOOPS else LOOPS

    assert not set(ours(name)) & (DRIVEN | below)


@pytest.mark.parametrize("adapters", SEPARATE)
def test_adapters_don_t_import_each_other(adapters: tuple[str, ...]) -> None:
    """What two adapters share is below both."""
    for name in adapters:
        assert not set(ours(name)) & (set(adapters) - {name})


@pytest.mark.parametrize("name", names())
def test_libraries_stay_with_their_adapter(name: str) -> None:
    """Each library is known to the modules that the table names, and to no other."""
    parts = name.split(".")
    within = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}  # naming a package names all its modules

    assert {library for library in libraries(name) if not within & LIBRARIES.get(library, set())} == set()


@pytest.mark.parametrize("module", ["ai_retry", "ai_retry.bootstrap", "ai_retry.config", "ai_retry.cli.commands"])
def test_import_stays_light(module: str) -> None:
    """Importing what every app imports loads none of the heavy libraries."""
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []


def test_import_loads_nothing_but_the_standard_library() -> None:
    """``import ai_retry`` loads our domain and the standard library; its cost is printed (the aim: under 50 ms)."""
    code = (
        "import sys, time; known = set(sys.modules); began = time.process_time(); import ai_retry;"
        " print((time.process_time() - began) * 1000, *{name.partition('.')[0] for name in set(sys.modules) - known})"
    )

    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)

    cost, *loaded = done.stdout.split()
    print(f"import ai_retry: {float(cost):.1f} ms of processor time on top of the interpreter")
    assert set(loaded) - set(sys.stdlib_module_names) == {"ai_retry"}


def test_facade_exists_and_is_documented() -> None:
    """Each name of the façade is there, documented, of this package, and listed by ``dir``; no other one is."""
    exported = ai_retry.__all__

    assert list(exported) == sorted(exported)
    assert all(getattr(ai_retry, name).__doc__ for name in exported if name != "ContextFrom")  # an alias has none
    assert set(exported) <= set(dir(ai_retry))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        ai_retry.Nothing  # noqa: B018


def test_facade_has_what_its_signatures_name() -> None:
    """Whatever type the methods of a client take, return or raise is importable from ``ai_retry``."""
    methods = inspect.getmembers(ai_retry.Client, inspect.isfunction)
    signatures = [inspect.signature(each) for name, each in methods if name == "__init__" or not name.startswith("_")]
    notes = [str(each.annotation) for of in signatures for each in of.parameters.values()]
    notes += [str(of.return_annotation) for of in signatures]
    named = {word for note in notes for word in re.findall(r"ai_retry\.[\w.]*?\b([A-Z]\w+)", note)}
    quoted = [note for note in notes if re.fullmatch(r"[\w |]+", note)]  # their modules are imported for type checks
    named |= {word for note in quoted for word in re.findall(r"\b[A-Z]\w+", note)} - {"None", "OnEvent", "Words"}
    errors = {each.__name__ for each in vars(error_module).values() if _is_error(each)}

    assert len(named) > 10
    assert (named | errors) - set(ai_retry.__all__) == set()


@pytest.mark.parametrize("name", names())
def test_modules_import_and_say_why_they_exist(name: str) -> None:
    """Every module can be imported, and has a docstring."""
    importlib.import_module("ai_retry" if name == "ai_retry" else f"ai_retry.{name}")

    assert ast.get_docstring(tree_of(path_of(name)))


def test_modules_stay_short() -> None:
    """No module has more than 300 lines, but for those with a reason; others need none."""
    lengths = {
        path.relative_to(SOURCES).as_posix(): len(path.read_text().splitlines()) for path in SOURCES.rglob("*.py")
    }

    assert {name for name, lines in lengths.items() if lines > MAX_MODULE_LINES} == set(LONG_MODULES)


def test_functions_stay_short() -> None:
    """No function has more than 40 lines, its docstring aside, but for those with a reason; others need none."""
    long = {
        f"{path.relative_to(SOURCES).as_posix()}:{node.name}"
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef) and _lines(node) > MAX_FUNCTION_LINES
    }

    assert long == set(LONG_FUNCTIONS)


def test_adapters_outside_stay_thin() -> None:
    """The runnable app is a few lines on the package: imports and one function, nothing that works at import."""
    docstring, *body = tree_of(REPOSITORY / "adapters" / "flask_app.py").body

    assert isinstance(docstring, ast.Expr)
    assert {type(node) for node in body} <= {ast.Import, ast.ImportFrom, ast.FunctionDef}
    assert (body[-1].end_lineno or 0) < 40


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, ai_retry.AiRetryError)


def _lines(function: ast.FunctionDef) -> int:
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
    return lines
