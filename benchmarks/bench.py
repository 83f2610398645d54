"""How fast is it, beside what else could do the job, and does it stay so? Run it with ``make bench``.

Everything runs in one go on one PostgreSQL, in turns, so that whatever else happens on the machine happens to all.
``make bench QUICK=1`` takes under two minutes and writes to ``.cache/bench``, the full one to ``docs``.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from time import monotonic

import psycopg

from benchmarks import machine, report
from benchmarks.measurements import attempts, cold, data_api, endpoint, growth, observed, parts, wal
from benchmarks.section import Section
from benchmarks.sizes import FULL, QUICK, Sizes
from tools.npm import REPOSITORY
from tools.processes import StackUnavailable
from tools.stack import Stack, running_stack

SERVER = {"fsync": "on", "shared_buffers": "512MB", "max_wal_size": "4GB"}


MEASUREMENTS: dict[str, Callable[[Stack, Sizes], Section]] = {
    "attempts": attempts.measure,
    "parts": parts.measure,
    "wal": wal.measure,
    "observed": observed.measure,
    "data_api": data_api.measure,
    "endpoint": endpoint.measure,
    "growth": growth.measure,
    "cold": cold.measure,
}


def main(arguments: Sequence[str]) -> int:
    """Measure, print, write."""
    options, sizes = _parsed(arguments)
    names = options.only or list(MEASUREMENTS)
    folder = Path(options.out or REPOSITORY / (".cache/bench" if options.quick else "docs"))
    began = monotonic()
    sections: dict[str, Section] = {}
    loads = [machine.load()]
    try:
        with running_stack(postgres_settings=SERVER) as stack:
            with psycopg.connect(stack.database_url, autocommit=True) as database:
                described = machine.described(database)
            for name in names:
                _progress(f"{name} ...")
                sections[name] = MEASUREMENTS[name](stack, sizes)
                loads.append(machine.load())
                _progress(f"{name}: {monotonic() - began:.0f} s, load {loads[-1]:g}")
    except (RuntimeError, StackUnavailable, psycopg.Error) as error:
        print(f"bench: failed: {error}", file=sys.stderr)
        return 1
    result = report.Result(described, loads, monotonic() - began, sizes, sections)
    print(report.text(result))
    print(report.aims(result))
    for path in report.write(result, folder, complete=names == list(MEASUREMENTS)):
        _progress(f"wrote {path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path}")
    return 0


def _parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, Sizes]:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look")
    parser.add_argument("--only", nargs="+", choices=list(MEASUREMENTS), help="these measurements, and no page")
    parser.add_argument("--out", help="a folder for the results")
    for each in fields(Sizes):
        parser.add_argument(f"--{each.name}", type=each.type)
    options = parser.parse_args(arguments)
    given = {each.name: getattr(options, each.name) for each in fields(Sizes)}
    sizes = replace(QUICK if options.quick else FULL, **{name: one for name, one in given.items() if one is not None})
    return options, sizes


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
