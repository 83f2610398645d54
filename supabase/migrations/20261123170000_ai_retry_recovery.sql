-- ai-retry: manual recovery. Finds failed generations newest first, tells what a plan did, records who recovered what.
--
-- Needs 20261123120000_ai_retry.sql. Applying it twice changes nothing. What may be retried is decided by
-- ai_retry.domain.policy from the snapshots of ai_retry_load, here as everywhere.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- 1. Indexes. On a large table build them before, concurrently and under these names; then nothing is left to do here.

do $index$
begin
  -- Of columns that nobody updates: a status that changes, the app's own included, costs no entry here.
  create index if not exists ai_retry_generations_created_at_idx on public.generations (created_at desc, id desc);
  if not exists (
    select from pg_catalog.pg_index i
    where i.indrelid = 'public.generation_error_logs'::regclass and i.indpred is null and i.indisvalid
      and pg_catalog.pg_get_indexdef(i.indexrelid, 1, false) = 'generation_id'
  ) then
    create index if not exists ai_retry_generation_error_logs_generation_id_idx
      on public.generation_error_logs (generation_id);
  end if;
  create index if not exists ai_retry_attempts_plan_idx
    on public.ai_retry_attempts (idempotency_key, generation_id, number) where idempotency_key like 'plan:%';
end
$index$;

-- 2. Who recovered what. Operators only: the app's events belong to users, and an operator is none.

create table if not exists public.ai_retry_recoveries (
  run_id uuid primary key,
  plan_id text not null,
  operator text not null,
  plan jsonb not null,
  started_at timestamptz not null,
  ended_at timestamptz,
  counts jsonb,
  events_refused_by text,
  constraint ended_states_its_counts check ((ended_at is null) = (counts is null))
);
alter table public.ai_retry_recoveries enable row level security;
revoke all on table public.ai_retry_recoveries from public, anon, authenticated, service_role;
grant select, insert, update on table public.ai_retry_recoveries to service_role;
comment on table public.ai_retry_recoveries is
  'ai-retry: one row per run of a recovery plan. Its attempts carry the idempotency key plan:<plan_id>. Operators only.';
comment on column public.ai_retry_recoveries.run_id is 'Chosen by the run, so that recording may be repeated.';
comment on column public.ai_retry_recoveries.plan_id is 'Hash of filter, policy, waivers, charge and the generations selected.';
comment on column public.ai_retry_recoveries.operator is 'Who ran it.';
comment on column public.ai_retry_recoveries.plan is 'Filter, policy, waivers, charge, caps and how many were selected.';
comment on column public.ai_retry_recoveries.started_at is 'When it began.';
comment on column public.ai_retry_recoveries.ended_at is 'When it ended; null while it runs, or when it was killed.';
comment on column public.ai_retry_recoveries.counts is 'How the selected generations ended: succeeded, failed, left.';
comment on column public.ai_retry_recoveries.events_refused_by is 'What refused the events for the app, if anything did.';

-- 3. Functions.

create or replace function public.ai_retry_last_error(p_generation_id uuid)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select coalesce(
    (
      select pg_catalog.jsonb_build_object('code', a.code, 'reason', a.reason, 'at', a.closed_at, 'ours', true)
      from public.ai_retry_attempts a
      where a.generation_id = p_generation_id and a.outcome in ('failed', 'abandoned')
      order by a.number desc limit 1
    ),
    (
      -- The app wrote its message, perhaps with a prompt in it: only the type goes on.
      select pg_catalog.jsonb_build_object('code', l.error_type, 'reason', null, 'at', l.created_at, 'ours', false)
      from public.generation_error_logs l
      where l.generation_id = p_generation_id
      order by l.created_at desc nulls last limit 1
    ))
$$;
comment on function public.ai_retry_last_error(uuid) is
  'The last error of a generation: of our last attempt that has one, else the app''s last one, without its message.';

create or replace function public.ai_retry_find(
  p_since timestamptz, p_statuses text, p_codes text, p_models text, p_user_id uuid, p_before_at timestamptz,
  p_before_id uuid, p_page integer, p_limit integer, p_window_seconds double precision, p_count_own_successes boolean
)
returns jsonb
language plpgsql
stable
security invoker
set search_path = ''
set plan_cache_mode = 'force_custom_plan'
as $$
declare
  c_look constant integer := 50;  -- times as many are looked at, since most have succeeded
  v_found jsonb;
begin
  with looked as (
    select g.id, g.user_id, g.created_at, g.updated_at, g.status, g.model
    from public.generations g
    where (g.created_at, g.id) < (p_before_at, p_before_id)
      and g.created_at >= coalesce(p_since, '-infinity')
      and (p_user_id is null or g.user_id = p_user_id)
    order by g.created_at desc, g.id desc
    limit p_page * c_look
  ),
  page as (
    select l.id, l.user_id, l.created_at, coalesce(l.updated_at, l.created_at) as failed_at
    from looked l
    where p_statuses::jsonb ? l.status and (p_models is null or p_models::jsonb ? l.model)
    order by l.created_at desc, l.id desc
    limit p_page
  )
  select pg_catalog.jsonb_build_object(
    'as_of', pg_catalog.clock_timestamp(),
    'rows', coalesce(pg_catalog.jsonb_agg(
      pg_catalog.jsonb_build_object(
        'failed_at', f.failed_at, 'error', f.error,
        'snapshot', public.ai_retry_load(f.user_id, f.id, p_limit, p_window_seconds, p_count_own_successes))
      order by f.created_at desc, f.id desc
    ) filter (where p_codes is null or p_codes::jsonb ? (f.error ->> 'code')), '[]'),
    'next', case
      when count(*) = p_page then (
        select pg_catalog.jsonb_build_object('at', l.created_at, 'id', l.id) from page l order by l.created_at, l.id limit 1
      )
      when (select count(*) from looked) = p_page * c_look then (
        select pg_catalog.jsonb_build_object('at', l.created_at, 'id', l.id) from looked l order by l.created_at, l.id limit 1
      ) end)
  into v_found
  from (select p.*, public.ai_retry_last_error(p.id) as error from page p) f;
  return v_found;
end
$$;
comment on function public.ai_retry_find(
  timestamptz, text, text, text, uuid, timestamptz, uuid, integer, integer, double precision, boolean
) is
  'One page of failed generations made before an instant and id, newest first, each with what a decision needs. It looks '
  'at 50 times p_page generations at most, so that a page may be short; next is null at the end. Writes nothing.';

create or replace function public.ai_retry_find_one(
  p_generation_id uuid, p_limit integer, p_window_seconds double precision, p_count_own_successes boolean
)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select pg_catalog.jsonb_build_object(
    'failed_at', coalesce(g.updated_at, g.created_at),
    'error', public.ai_retry_last_error(g.id),
    'snapshot', public.ai_retry_load(g.user_id, g.id, p_limit, p_window_seconds, p_count_own_successes))
  from public.generations g
  where g.id = p_generation_id
$$;
comment on function public.ai_retry_find_one(uuid, integer, double precision, boolean) is
  'A generation of whatever user and status, as ai_retry_find tells them. For operators. Writes nothing.';

create or replace function public.ai_retry_find_attempts(p_key text, p_after uuid, p_page integer)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
    'generation_id', l.generation_id, 'number', l.number, 'outcome', l.outcome, 'code', l.code,
    'started_at', l.started_at, 'closed_at', l.closed_at, 'next_attempt_at', l.next_attempt_at, 'usage', l.usage
  ) order by l.generation_id), '[]')
  from (
    select distinct on (a.generation_id) a.*
    from public.ai_retry_attempts a
    where a.idempotency_key = p_key and a.idempotency_key like 'plan:%' and a.generation_id > p_after
    order by a.generation_id, a.number desc
    limit p_page
  ) l
$$;
comment on function public.ai_retry_find_attempts(text, uuid, integer) is
  'The last attempt that a plan made at each generation, a page of them by generation. Writes nothing.';

create or replace function public.ai_retry_estimate()
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
    'model', m.model, 'tokens', m.tokens, 'cost', m.cost)), '[]')
  from (
    select g.model, avg((r.usage ->> 'total_tokens')::numeric) as tokens, avg((r.usage ->> 'cost')::numeric) as cost
    from (
      select a.generation_id, a.usage
      from public.ai_retry_attempts a
      where a.usage is not null and a.outcome is not null
      order by a.closed_at desc limit 1000
    ) r
    join public.generations g on g.id = r.generation_id
    group by g.model
  ) m
$$;
comment on function public.ai_retry_estimate() is
  'Mean tokens and cost of a call for each model that generations name, from the last 1000 attempts that told them.';

create or replace function public.ai_retry_record_recovery(
  p_run_id uuid, p_plan_id text, p_operator text, p_plan text, p_counts text
)
returns text
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_started_at timestamptz;
  v_sqlstate text;
  v_constraint text;
begin
  insert into public.ai_retry_recoveries (run_id, plan_id, operator, plan, started_at)
    values (p_run_id, p_plan_id, p_operator, p_plan::jsonb, v_now)
    on conflict (run_id) do nothing;
  if p_counts is null then
    return null;
  end if;
  update public.ai_retry_recoveries r
    set ended_at = v_now, counts = p_counts::jsonb
    where r.run_id = p_run_id and r.ended_at is null
    returning r.started_at into v_started_at;
  if not found then
    return (select r.events_refused_by from public.ai_retry_recoveries r where r.run_id = p_run_id);
  end if;
  begin
    -- Users may read their events: these say what was done for them, not who did it or what else was looked for.
    insert into public.events (user_id, event_type, event_data, created_at)
    select a.user_id, 'ai_generations_recovered',
      pg_catalog.jsonb_build_object(
        'plan_id', p_plan_id, 'run_id', p_run_id, 'retried', count(*),
        'succeeded', count(*) filter (where a.outcome = 'succeeded')),
      v_now
    from public.ai_retry_attempts a
    where a.idempotency_key = 'plan:' || p_plan_id and a.idempotency_key like 'plan:%' and a.started_at >= v_started_at
    group by a.user_id;
    set constraints all immediate;
    return null;
  exception when others or assert_failure then
    get stacked diagnostics v_sqlstate = returned_sqlstate, v_constraint = constraint_name;
    if public.ai_retry_passes(v_sqlstate) then
      raise;
    end if;
  end;
  update public.ai_retry_recoveries r
    set events_refused_by = coalesce(nullif(v_constraint, ''), v_sqlstate) where r.run_id = p_run_id;
  return coalesce(nullif(v_constraint, ''), v_sqlstate);
end
$$;
comment on function public.ai_retry_record_recovery(uuid, text, text, text, text) is
  'Records that a run of a plan began and, with its counts, that it ended: then also one event per user it concerned. '
  'Answers what refused the events, if the app did. Idempotent by run.';

-- 4. Only the service role may execute ours.

do $grants$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure
    from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname in (
      'ai_retry_last_error', 'ai_retry_find', 'ai_retry_find_one', 'ai_retry_find_attempts', 'ai_retry_estimate',
      'ai_retry_record_recovery')
  loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end
$grants$;

comment on index public.ai_retry_generations_created_at_idx is
  'ai-retry: generations newest first, so that a million of them are read page by page.';
comment on index public.ai_retry_attempts_plan_idx is 'ai-retry: the attempts of a recovery plan.';

reset lock_timeout;
reset statement_timeout;
