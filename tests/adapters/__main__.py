"""Print what `make test` has not run."""

from tests.adapters import not_run

if (line := not_run()) is not None:
    print(line)
