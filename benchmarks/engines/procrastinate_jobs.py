"""Procrastinate: ``get_stalled_jobs`` by heartbeat, ``retry_job``, ``finish_job``.

Stalled jobs are retried as its how-to does it; the other steps are those of its worker, one by one: register, fetch the
job, run the task's function, finish the job. The worker offers no place in the finishing transaction, so the charge is
the function's last line.
"""

import asyncio

from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status

from benchmarks.engines.ledger import Ledger, Order, Report, play
from benchmarks.rates.protocol import versions

STALLED_AFTER = 1.0  # seconds without a heartbeat

_FINISHED = "finish_job returned"


def scenario(url: str, order: Order) -> Report:
    """A fetches and stalls past its heartbeat, the job is retried, B fetches it; both finish."""
    return asyncio.run(_play(url, order))


async def _play(url: str, order: Order) -> Report:
    ledger = Ledger(url)
    app = App(connector=PsycopgConnector(conninfo=url))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await app.configure_task("retry_generation", allow_unknown=True).defer_async(generation=1)
        job_of_a = await _take(app, ledger, "a")
        await asyncio.sleep(STALLED_AFTER + 0.5)
        for stalled in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_AFTER):
            await app.job_manager.retry_job(stalled)
        job_of_b = await _take(app, ledger, "b")
        assert job_of_a.id == job_of_b.id
        if order == "while":
            late = await _finish(app, ledger, job_of_a, "a")
            other = await _finish(app, ledger, job_of_b, "b")
        else:
            other = await _finish(app, ledger, job_of_b, "b")
            late = await _finish(app, ledger, job_of_a, "a")
    return Report(
        engine=versions("procrastinate"),
        accepted=late == _FINISHED,
        late=late,
        other=other,
        charged="at the end of the task",
    )


async def _take(app: App, ledger: Ledger, worker: str) -> Job:
    worker_id = await app.job_manager.register_worker()
    job = await app.job_manager.fetch_job(queues=None, worker_id=worker_id)
    assert job is not None
    ledger.call(worker)
    return job


async def _finish(app: App, ledger: Ledger, job: Job, worker: str) -> str:
    ledger.charge(worker)
    try:
        await app.job_manager.finish_job(job, Status.SUCCEEDED, delete_job=False)
    except ConnectorException as error:
        return f"finish_job raised {type(error).__name__}"
    return _FINISHED


if __name__ == "__main__":
    play(scenario)
