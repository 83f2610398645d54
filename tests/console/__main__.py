"""Print what `make test` has not run; `make test-console` asks the same before it begins, and then after it."""

from tests.console import not_run

if (line := not_run()) is not None:
    print(line)
