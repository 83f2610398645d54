"""Which sessions waited for a lock, how long, and for whom.

Sampled every few milliseconds inside the server, where no busy Python thread delays it.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import psycopg

_ROUND = 0.005
_STOP = 741_852_963  # an advisory lock: the watch ends when it can have it

_WATCH = f"""
create temporary table waits (at timestamptz, pid integer, since timestamptz, idle boolean, holders text);
create procedure pg_temp.watch(p_pids integer[]) language plpgsql as $$
begin
  while not pg_try_advisory_lock({_STOP}) loop
    insert into waits
      select clock_timestamp(), l.pid, l.waitstart, h.idle, h.holders
      from pg_locks l cross join lateral (
        select bool_or(a.wait_event_type = 'Lock' or a.state like 'idle in transaction%') as idle,
          string_agg(concat_ws(' ', a.application_name, a.state, a.wait_event_type, a.wait_event), ', ') as holders
        from pg_stat_activity a where a.pid = any (pg_blocking_pids(l.pid))
      ) h
      where l.pid = any (p_pids) and not l.granted and l.waitstart is not null;
    perform pg_stat_clear_snapshot(), pg_sleep({_ROUND});
  end loop;
end
$$;
"""
_WAITS = """
select pid, extract(epoch from since)::float8, extract(epoch from max(at) - since)::float8,
  count(*) filter (where idle)::float8 / count(*),
  array_agg(distinct holders) filter (where holders is not null)
from waits group by pid, since order by since
"""


@dataclass(frozen=True)
class Wait:
    """One wait for one lock."""

    pid: int
    since: float  # seconds since the epoch
    seconds: float
    idle: float  # the part of it in which who had the lock did not work: it waited for another one, or for its client
    holders: Sequence[str]  # what those who had the lock were seen doing


@dataclass
class LockWatch:
    """What was seen, once the watch has ended."""

    waits: list[Wait] = field(default_factory=list)

    def waited(self, pid: int, began: float, ended: float) -> list[Wait]:
        """Return the waits of a session between two instants, each counted at most so long."""
        return [
            wait if wait.seconds <= (most := ended - wait.since) else replace(wait, seconds=most)
            for wait in self.waits
            if wait.pid == pid and began <= wait.since <= ended
        ]


@contextmanager
def watching_locks(url: str, pids: Sequence[int]) -> Iterator[LockWatch]:
    """Watch what these sessions wait for until the block ends; then the watch has it."""
    watch = LockWatch()
    with (
        psycopg.connect(url, autocommit=True, application_name="control") as control,
        psycopg.connect(url, autocommit=True, application_name="watch") as watcher,
    ):
        control.execute("select pg_advisory_lock(%s)", [_STOP])
        watcher.execute(_WATCH)
        thread = threading.Thread(target=watcher.execute, args=["call pg_temp.watch(%s)", [list(pids)]])
        thread.start()
        try:
            yield watch
        finally:
            control.execute("select pg_advisory_unlock(%s)", [_STOP])
            thread.join()
        watch.waits = [Wait(*row) for row in watcher.execute(_WAITS).fetchall()]
