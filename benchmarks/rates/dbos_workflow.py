"""DBOS: a workflow of one step, called and waited for."""

import sys
import time

from dbos import DBOS, DBOSConfig

from benchmarks.rates.protocol import serve, spread, versions


class Dbos:
    """Each worker is a thread that calls the workflow."""

    name = versions("dbos")

    def __init__(self, url: str) -> None:
        call_step = DBOS.step(name="call_provider")(_call)

        def retry_generation(number: int) -> int:
            return int(call_step(number))

        self._workflow = DBOS.workflow(name="retry_generation")(retry_generation)
        config: DBOSConfig = {
            "name": "bench",
            "system_database_url": url,
            "application_version": "1",
            "executor_id": "one",
            "console_log_level": "CRITICAL",
        }
        DBOS(config=config)
        DBOS.launch()

    def run(self, workers: int, count: int) -> float:
        """See the protocol."""
        began = time.perf_counter()
        spread(self._workflow, list(range(count)), workers)
        return time.perf_counter() - began


def _call(number: int) -> int:
    """Stand for the provider's call."""
    return number


if __name__ == "__main__":
    serve(Dbos(sys.argv[1]))
