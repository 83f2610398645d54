-- ai-retry: failed AI generations are tried again; nothing twice, nothing lost.
--
-- Looks first and stops before any change if the app's tables can't be used; adds only what is missing; ends with a
-- rehearsal that is rolled back. Applying it twice changes nothing. Every object of ours is named ai_retry_*.
--
-- Lock order of every function that writes: the user's advisory lock, then the generation's row, then anything else.
-- The app never takes the first lock, and we never wait long for anything while we hold the second one.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- 1. Look first: name every obstacle in one message, before anything is changed.

do $look$
declare
  v_obstacles text[] := '{}';
  v_row record;
begin
  if to_regclass('auth.users') is null then
    v_obstacles := v_obstacles || 'there is no table auth.users: apply this to a Supabase project'::text;
  end if;
  for v_row in
    select r.name from (values ('anon'), ('authenticated'), ('service_role')) as r (name)
    where not exists (select from pg_catalog.pg_roles where rolname = r.name)
  loop
    v_obstacles := v_obstacles || format('there is no role %I: apply this to a Supabase project', v_row.name);
  end loop;

  for v_row in
    select c.relname
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace
      and c.relname in ('generations', 'sessions', 'generation_error_logs', 'events')
      and c.relkind not in ('r', 'p')
  loop
    v_obstacles := v_obstacles || format('public.%I must be a table', v_row.relname);
  end loop;

  for v_row in
    select e.tab, e.col, e.types, e.required, a.atttypid, t.typname, t.typtype, d.def
    from (values
      ('generations', 'id', array['uuid'], true),
      ('generations', 'user_id', array['uuid'], true),
      ('generations', 'status', array['text', 'varchar'], false),
      ('generations', 'model', array['text', 'varchar'], false),
      ('generations', 'prompt_data', array['jsonb', 'json'], false),
      ('generations', 'duration_ms', array['int4', 'int8', 'numeric', 'float8'], false),
      ('generations', 'session_id', array['uuid'], false),
      ('generations', 'created_at', array['timestamptz'], false),
      ('generations', 'updated_at', array['timestamptz'], false),
      ('sessions', 'id', array['uuid'], true),
      ('generation_error_logs', 'generation_id', array['uuid'], false),
      ('generation_error_logs', 'user_id', array['uuid'], false),
      ('generation_error_logs', 'error_type', array['text', 'varchar'], false),
      ('generation_error_logs', 'error_message', array['text', 'varchar'], false),
      ('generation_error_logs', 'created_at', array['timestamptz'], false),
      ('events', 'user_id', array['uuid'], false),
      ('events', 'event_type', array['text', 'varchar'], false),
      ('events', 'event_data', array['jsonb', 'json'], false),
      ('events', 'created_at', array['timestamptz'], false)
    ) as e (tab, col, types, required)
    join pg_catalog.pg_class c on c.relname = e.tab and c.relnamespace = 'public'::regnamespace
    left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = e.col and not a.attisdropped
    left join pg_catalog.pg_type t on t.oid = a.atttypid
    left join lateral (
      select pg_catalog.pg_get_expr(ad.adbin, ad.adrelid) as def
      from pg_catalog.pg_attrdef ad where ad.adrelid = a.attrelid and ad.adnum = a.attnum
    ) d on true
    order by e.tab, e.col
  loop
    if v_row.typname is null and v_row.required then
      v_obstacles := v_obstacles || format('public.%I needs a column %I of type %s', v_row.tab, v_row.col, v_row.types[1]);
    elsif v_row.typname is not null and v_row.typtype = 'e' then
      v_obstacles := v_obstacles || format(
        E'public.%1$I.%2$I is the enum %3$s and must be text; run first:\n'
        '      alter table public.%1$I alter column %2$I drop default;\n'
        '      alter table public.%1$I alter column %2$I type text using %2$I::text;%4$s',
        v_row.tab, v_row.col, format_type(v_row.atttypid, null),
        case when v_row.def is null then '' else format(
          E'\n      alter table public.%I alter column %I set default %s;',
          v_row.tab, v_row.col, split_part(v_row.def, '::', 1)) end);
    elsif v_row.typname is not null and not v_row.typname = any (v_row.types) then
      v_obstacles := v_obstacles || format('public.%I.%I is %s and must be %s',
        v_row.tab, v_row.col, format_type(v_row.atttypid, null), array_to_string(v_row.types, ' or '));
    end if;
  end loop;

  for v_row in
    select c.relname from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relname in ('generations', 'sessions') and c.relkind = 'r'
      and not exists (
        select from pg_catalog.pg_index i
        where i.indrelid = c.oid and i.indisunique and i.indnkeyatts = 1 and i.indpred is null
          and pg_catalog.pg_get_indexdef(i.indexrelid, 1, false) = 'id'
      )
  loop
    v_obstacles := v_obstacles || format('public.%I.id must be unique: make it the primary key', v_row.relname);
  end loop;
  if exists (
    select from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname = 'ai_retry_create_session'
      and p.prorettype <> 'jsonb'::regtype
  ) then
    v_obstacles := v_obstacles || 'public.ai_retry_create_session must return jsonb, the created row'::text;
  end if;

  if v_obstacles <> '{}' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = E'ai-retry can''t be installed yet; nothing was changed:\n  - ' || array_to_string(v_obstacles, E'\n  - ');
  end if;
end
$look$;

-- 2. The app's tables, where they are missing. What exists keeps its rows, its grants and its policies.

do $tables$
begin
  if to_regclass('public.sessions') is null then
    create table public.sessions (
      id uuid primary key default gen_random_uuid(),
      user_id uuid not null references auth.users (id) on delete cascade,
      content jsonb not null,
      created_at timestamptz not null default statement_timestamp()
    );
    create index sessions_user_id_idx on public.sessions (user_id);
    alter table public.sessions enable row level security;
    create policy "Users read their own sessions" on public.sessions
      for select to authenticated using ((select auth.uid()) = user_id);
    revoke all on table public.sessions from public, anon, authenticated;
    grant select on table public.sessions to authenticated;
    comment on table public.sessions is 'Made by ai-retry: what successful generations create.';
    comment on column public.sessions.content is 'The output of the AI provider, valid under the context''s response schema.';
  end if;

  if to_regclass('public.generations') is null then
    create table public.generations (
      id uuid primary key default gen_random_uuid(),
      user_id uuid not null references auth.users (id) on delete cascade,
      status text not null default 'queued',
      model text,
      prompt_data jsonb,
      duration_ms integer,
      session_id uuid references public.sessions (id) on delete set null,
      created_at timestamptz not null default statement_timestamp(),
      updated_at timestamptz not null default statement_timestamp(),
      constraint status_is_known check (status in ('queued', 'processing', 'success', 'error', 'timeout'))
    );
    create index generations_session_id_idx on public.generations (session_id);
    alter table public.generations enable row level security;
    create policy "Users read their own generations" on public.generations
      for select to authenticated using ((select auth.uid()) = user_id);
    revoke all on table public.generations from public, anon, authenticated;
    grant select on table public.generations to authenticated;
    comment on table public.generations is 'Made by ai-retry: AI results that users asked for.';
    comment on column public.generations.prompt_data is
      'The context to ask again: {"messages": [...], "parameters": {...}, "response_schema": {...}}.';
  end if;

  if to_regclass('public.generation_error_logs') is null then
    create table public.generation_error_logs (
      id uuid primary key default gen_random_uuid(),
      generation_id uuid not null references public.generations (id) on delete cascade,
      user_id uuid not null references auth.users (id) on delete cascade,
      error_type text not null,
      error_message text not null,
      created_at timestamptz not null default statement_timestamp()
    );
    create index generation_error_logs_generation_id_idx on public.generation_error_logs (generation_id);
    create index generation_error_logs_user_id_idx on public.generation_error_logs (user_id);
    alter table public.generation_error_logs enable row level security;
    create policy "Users read their own error logs" on public.generation_error_logs
      for select to authenticated using ((select auth.uid()) = user_id);
    revoke all on table public.generation_error_logs from public, anon, authenticated;
    grant select on table public.generation_error_logs to authenticated;
    comment on table public.generation_error_logs is 'Made by ai-retry: one row per attempt that failed.';
  end if;

  if to_regclass('public.events') is null then
    create table public.events (
      id uuid primary key default gen_random_uuid(),
      user_id uuid not null references auth.users (id) on delete cascade,
      event_type text not null,
      event_data jsonb not null default '{}',
      created_at timestamptz not null default statement_timestamp()
    );
    create index events_user_id_idx on public.events (user_id);
    alter table public.events enable row level security;
    create policy "Users read their own events" on public.events
      for select to authenticated using ((select auth.uid()) = user_id);
    revoke all on table public.events from public, anon, authenticated;
    grant select on table public.events to authenticated;
    comment on table public.events is 'Made by ai-retry: what happened to a user''s generations.';
  end if;
end
$tables$;

alter table public.generations
  add column if not exists status text,
  add column if not exists model text,
  add column if not exists prompt_data jsonb,
  add column if not exists duration_ms integer,
  add column if not exists session_id uuid,
  add column if not exists created_at timestamptz not null default statement_timestamp(),
  add column if not exists updated_at timestamptz;
alter table public.generation_error_logs
  add column if not exists generation_id uuid,
  add column if not exists user_id uuid,
  add column if not exists error_type text,
  add column if not exists error_message text,
  add column if not exists created_at timestamptz default statement_timestamp();
alter table public.events
  add column if not exists user_id uuid,
  add column if not exists event_type text,
  add column if not exists event_data jsonb,
  add column if not exists created_at timestamptz default statement_timestamp();

-- A check on generations.status that refuses one of our statuses is widened: what it allowed stays allowed.
do $widen$
declare
  v_check record;
  v_allows_all boolean;
begin
  for v_check in
    select c.conname, pg_catalog.pg_get_expr(c.conbin, c.conrelid) as expression
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attname = 'status'
    where c.conrelid = 'public.generations'::regclass and c.contype = 'c' and c.conkey = array[a.attnum]
  loop
    execute format(
      'select bool_and(%s) from unnest(array[''queued'', ''processing'', ''success'', ''error'', ''timeout'']) as status',
      v_check.expression) into v_allows_all;
    if v_allows_all is false then
      execute format('alter table public.generations drop constraint %I', v_check.conname);
      execute format(
        'alter table public.generations add constraint %I check ((%s) or status in '
        '(''queued'', ''processing'', ''success'', ''error'', ''timeout'')) not valid',
        v_check.conname, v_check.expression);
    end if;
  end loop;
end
$widen$;

-- The user's generations by time: for the app's own successes in the quota's window.
do $index$
begin
  if not exists (
    select from pg_catalog.pg_index i
    where i.indrelid = 'public.generations'::regclass and i.indpred is null and i.indisvalid
      and pg_catalog.pg_get_indexdef(i.indexrelid, 1, false) = 'user_id'
      and pg_catalog.pg_get_indexdef(i.indexrelid, 2, false) = 'created_at'
  ) then
    create index if not exists ai_retry_generations_user_id_created_at_idx on public.generations (user_id, created_at);
  end if;
end
$index$;

grant select, update on table public.generations to service_role;
grant select, insert on table public.sessions to service_role;
grant select, insert on table public.generation_error_logs, public.events to service_role;

-- 3. Our tables. No end user has a privilege on them; RLS without a policy would show nothing even then.

create table if not exists public.ai_retry_attempts (
  user_id uuid not null references auth.users (id) on delete cascade,
  generation_id uuid not null,
  number integer not null,
  state text not null,
  token uuid not null unique,
  started_at timestamptz not null,
  lease_expires_at timestamptz,
  idempotency_key text,
  charge boolean not null default true,
  waived text[] not null default '{}',
  operator text,
  outcome text,
  code text,
  reason text,
  counted boolean not null default true,
  closed_at timestamptz,
  next_attempt_at timestamptz,
  captured_at timestamptz,
  session_id uuid,
  refused_constraint text,
  model text,
  usage jsonb,
  provider_id text,
  wire_requests integer not null default 0,
  provider_outcome text not null default 'unknown',
  stored_answer jsonb,
  answer_from integer,
  discarded_at timestamptz,
  discarded_by text,
  primary key (generation_id, number),
  constraint number_follows_the_original check (number >= 2),
  constraint state_is_known check (state in ('queued', 'running', 'closed')),
  constraint outcome_is_known check (outcome in ('succeeded', 'failed', 'abandoned', 'cancelled')),
  constraint provider_outcome_is_known check (provider_outcome in ('generated', 'not_generated', 'unknown')),
  constraint running_requires_lease check (state <> 'running' or lease_expires_at is not null),
  constraint closed_states_its_outcome check ((state = 'closed') = (outcome is not null)),
  constraint closed_states_its_time check ((state = 'closed') = (closed_at is not null)),
  constraint success_has_a_session check (outcome is distinct from 'succeeded' or session_id is not null),
  constraint charged_success_is_captured
    check ((captured_at is not null) = (outcome is not distinct from 'succeeded' and charge)),
  constraint stored_answer_has_no_session check (stored_answer is null or outcome in ('failed', 'abandoned')),
  constraint wire_requests_are_counted check (wire_requests >= 0)
);
create unique index if not exists ai_retry_attempts_one_open_per_generation_idx
  on public.ai_retry_attempts (generation_id) where outcome is null;
create index if not exists ai_retry_attempts_open_by_user_idx
  on public.ai_retry_attempts (user_id) where outcome is null;
create index if not exists ai_retry_attempts_user_id_captured_at_idx
  on public.ai_retry_attempts (user_id, captured_at);

create table if not exists public.ai_retry_quotas (
  user_id uuid primary key references auth.users (id) on delete cascade,
  quota_limit integer not null,
  window_seconds double precision not null default 86400,
  constraint quota_limit_is_not_negative check (quota_limit >= 0),
  constraint window_is_positive_and_finite check (window_seconds > 0 and window_seconds < 'infinity')
);

alter table public.ai_retry_attempts enable row level security;
alter table public.ai_retry_quotas enable row level security;
revoke all on table public.ai_retry_attempts, public.ai_retry_quotas from public, anon, authenticated, service_role;
grant select, insert, update on table public.ai_retry_attempts to service_role;
grant select, insert, update, delete on table public.ai_retry_quotas to service_role;

comment on table public.ai_retry_attempts is
  'ai-retry: one row per attempt of ours at a generation; the truth, of which generations.status is a projection. Operators only.';
comment on column public.ai_retry_attempts.user_id is 'Whose quota it holds; the rows go with the user.';
comment on column public.ai_retry_attempts.generation_id is
  'Which generation. No foreign key: the books must balance after the app deleted it.';
comment on column public.ai_retry_attempts.number is 'Counts every go at the generation; the app''s original call is 1.';
comment on column public.ai_retry_attempts.state is 'queued or running: open; closed: it has its outcome.';
comment on column public.ai_retry_attempts.token is 'The fencing token: whoever settles the attempt must carry it.';
comment on column public.ai_retry_attempts.started_at is 'When it was claimed.';
comment on column public.ai_retry_attempts.lease_expires_at is 'Until when it is its worker''s; the next claim after that closes it as abandoned.';
comment on column public.ai_retry_attempts.idempotency_key is 'The caller''s Idempotency-Key, scoped to the generation.';
comment on column public.ai_retry_attempts.charge is 'Whether it holds, and on success captures, a unit of the quota.';
comment on column public.ai_retry_attempts.waived is 'Limits that an operator lifted for it.';
comment on column public.ai_retry_attempts.operator is 'Who lifted them.';
comment on column public.ai_retry_attempts.outcome is 'succeeded, failed, abandoned (its lease ran out) or cancelled; null while it is open.';
comment on column public.ai_retry_attempts.code is 'The error code of a failed or abandoned attempt.';
comment on column public.ai_retry_attempts.reason is 'One cleaned line for operators; no prompt, no answer, no key.';
comment on column public.ai_retry_attempts.counted is 'Whether it uses up one of the generation''s attempts.';
comment on column public.ai_retry_attempts.closed_at is 'When it was closed.';
comment on column public.ai_retry_attempts.next_attempt_at is 'When the next attempt is due; while it is open, when it would be after abandonment.';
comment on column public.ai_retry_attempts.captured_at is 'When its success spent a unit of the quota.';
comment on column public.ai_retry_attempts.session_id is 'The session that its success created.';
comment on column public.ai_retry_attempts.refused_constraint is 'What refused its session or, when it failed, the rows for the app.';
comment on column public.ai_retry_attempts.model is 'The model that answered.';
comment on column public.ai_retry_attempts.usage is 'Tokens and cost that the provider told.';
comment on column public.ai_retry_attempts.provider_id is 'The provider''s id of the request or answer.';
comment on column public.ai_retry_attempts.wire_requests is 'Requests that it put on the wire.';
comment on column public.ai_retry_attempts.provider_outcome is 'generated, not_generated, or unknown: it may have cost the operator, never the user.';
comment on column public.ai_retry_attempts.stored_answer is 'A valid, paid answer without a session; the next retry uses it instead of calling.';
comment on column public.ai_retry_attempts.answer_from is 'Number of the attempt whose stored answer this one used.';
comment on column public.ai_retry_attempts.discarded_at is 'When an operator dropped its stored answer.';
comment on column public.ai_retry_attempts.discarded_by is 'Who dropped it.';
comment on table public.ai_retry_quotas is 'ai-retry: users whose quota differs from the default.';
comment on column public.ai_retry_quotas.user_id is 'Whose quota.';
comment on column public.ai_retry_quotas.quota_limit is 'Units per window; 0 for none.';
comment on column public.ai_retry_quotas.window_seconds is 'Length of the rolling window.';

-- 4. Functions. Arguments are chosen by ai_retry.domain.policy; here things are counted, compared and made atomic.

create or replace function public.ai_retry_lock(p_user_id uuid)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
begin
  -- After a lock, the next statement must see what the lock's last holder committed.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'ai_retry functions need the isolation level read committed'
      using errcode = 'invalid_transaction_state';
  end if;
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('ai_retry:' || p_user_id::text, 0));
end
$$;
comment on function public.ai_retry_lock(uuid) is
  'Takes the first lock of every writing function: it orders all of ai-retry''s writes for one user, existing or not.';

create or replace function public.ai_retry_version(p_user_id uuid, p_generation_id uuid, p_status text)
returns text
language sql
stable
security invoker
set search_path = ''
as $$
  select pg_catalog.format('%s/%s/%s/%s/%s', p_status, coalesce(max(a.number), 1),
    (array_agg(extract(epoch from a.next_attempt_at) order by a.number desc))[1],
    max(a.number) filter (where a.stored_answer is not null),
    (select (q.quota_limit, q.window_seconds) from public.ai_retry_quotas q where q.user_id = p_user_id))
  from public.ai_retry_attempts a
  where a.generation_id = p_generation_id
$$;
comment on function public.ai_retry_version(uuid, uuid, text) is
  'What a decision rested on: status, highest attempt number, its next_attempt_at, stored answer, override. Opaque.';

create or replace function public.ai_retry_used(
  p_user_id uuid, p_limit integer, p_window_seconds double precision, p_count_own_successes boolean, p_at timestamptz
)
returns table (captured integer, held integer, resets_at timestamptz)
language sql
stable
security invoker
set search_path = ''
as $$
  with windowed as (
    select u.spent_at
    from (
      select a.captured_at as spent_at
      from public.ai_retry_attempts a
      where a.user_id = p_user_id and a.captured_at > p_at - pg_catalog.make_interval(secs => p_window_seconds)
      union all
      select least(g.created_at, p_at)  -- the app's instants may be any, also infinite
      from public.generations g
      where p_count_own_successes
        and g.user_id = p_user_id and g.created_at > p_at - pg_catalog.make_interval(secs => p_window_seconds)
        and g.status = 'success'
        and not exists (
          select from public.ai_retry_attempts a where a.generation_id = g.id and a.outcome = 'succeeded'
        )
    ) u
    order by u.spent_at desc
    limit p_limit
  ),
  holds as (
    select count(*)::integer as held, min(a.lease_expires_at) as first_end
    from public.ai_retry_attempts a
    where a.user_id = p_user_id and a.outcome is null and a.charge
      and (a.state = 'queued' or a.lease_expires_at > p_at)
  ),
  counted as (
    select count(*)::integer as captured, min(w.spent_at) as oldest from windowed w
  )
  select c.captured, h.held,
    case
      when p_limit = 0 then null
      when h.held >= p_limit then h.first_end
      when c.captured + h.held >= p_limit then pg_catalog.make_interval(secs => p_window_seconds) + (
        select w.spent_at from windowed w order by w.spent_at desc offset p_limit - h.held - 1 limit 1
      )
      else c.oldest + pg_catalog.make_interval(secs => p_window_seconds)
    end
  from counted c, holds h
$$;
comment on function public.ai_retry_used(uuid, integer, double precision, boolean, timestamptz) is
  'Units captured in the window (counted no further than the limit) and held, and when the next one comes back.';

create or replace function public.ai_retry_quota(
  p_user_id uuid, p_limit integer, p_window_seconds double precision, p_count_own_successes boolean, p_at timestamptz
)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select pg_catalog.jsonb_build_object(
    'limit', r.quota_limit, 'window_seconds', r.window_seconds,
    'captured', u.captured, 'held', u.held, 'resets_at', u.resets_at)
  from (
    select coalesce(q.quota_limit, p_limit) as quota_limit, coalesce(q.window_seconds, p_window_seconds) as window_seconds
    from (select) nothing
    left join public.ai_retry_quotas q on q.user_id = p_user_id
  ) r,
  lateral public.ai_retry_used(p_user_id, r.quota_limit, r.window_seconds, p_count_own_successes, p_at) u
$$;
comment on function public.ai_retry_quota(uuid, integer, double precision, boolean, timestamptz) is
  'The user''s quota as JSON: the given rule or the user''s override, and what is used of it.';

create or replace function public.ai_retry_generation(p_generation public.generations)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select pg_catalog.jsonb_build_object(
    'id', p_generation.id, 'user_id', p_generation.user_id, 'status', p_generation.status,
    'model', p_generation.model, 'prompt_data', p_generation.prompt_data, 'session_id', p_generation.session_id,
    'duration_ms', p_generation.duration_ms, 'created_at', p_generation.created_at,
    'updated_at', p_generation.updated_at)
$$;
comment on function public.ai_retry_generation(public.generations) is 'The columns of a generation that ai-retry reads, as JSON.';

create or replace function public.ai_retry_session(p_session_id uuid, p_user_id uuid)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  -- Users may be able to write generations.session_id: somebody else's session is none.
  select row_of.session
  from (select pg_catalog.to_jsonb(s) as session from public.sessions s where s.id = p_session_id) row_of
  where coalesce(row_of.session ->> 'user_id', p_user_id::text) = p_user_id::text
$$;
comment on function public.ai_retry_session(uuid, uuid) is 'The row of a session as JSON, if it is this user''s.';

create or replace function public.ai_retry_load(
  p_user_id uuid, p_generation_id uuid, p_limit integer, p_window_seconds double precision, p_count_own_successes boolean
)
returns jsonb
language sql
stable
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
  select pg_catalog.jsonb_build_object(
    'as_of', t.as_of,
    'version', public.ai_retry_version(g.user_id, g.id, g.status),
    'generation', public.ai_retry_generation(g),
    'attempts', (
      select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
        'number', a.number, 'started_at', a.started_at, 'lease_expires_at', a.lease_expires_at,
        'outcome', a.outcome, 'closed_at', a.closed_at, 'code', a.code, 'counted', a.counted,
        'next_attempt_at', a.next_attempt_at, 'idempotency_key', a.idempotency_key,
        'refused_constraint', a.refused_constraint, 'provider_outcome', a.provider_outcome) order by a.number), '[]')
      from public.ai_retry_attempts a where a.generation_id = g.id
    ),
    'live', l.live, 'live_until', l.live_until,
    'quota', public.ai_retry_quota(g.user_id, p_limit, p_window_seconds, p_count_own_successes, t.as_of),
    'stored_answer', (
      select a.stored_answer || pg_catalog.jsonb_build_object('number', a.number)
      from public.ai_retry_attempts a
      where a.generation_id = g.id and a.user_id = g.user_id and a.stored_answer is not null
      order by a.number desc limit 1
    ),
    'session', public.ai_retry_session(coalesce(
      (select a.session_id from public.ai_retry_attempts a where a.generation_id = g.id and a.outcome = 'succeeded'),
      g.session_id), g.user_id),
    'can_create_session', exists (
      select from pg_catalog.pg_proc p
      where p.oid = pg_catalog.to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)')
        and p.prorettype = 'jsonb'::pg_catalog.regtype))
  from (select pg_catalog.clock_timestamp() as as_of offset 0) t,
    public.generations g,
    lateral (
      select count(*)::integer as live, min(a.lease_expires_at) as live_until
      from public.ai_retry_attempts a
      where a.user_id = g.user_id and a.outcome is null and a.lease_expires_at > t.as_of
    ) l
  where g.id = p_generation_id and g.user_id = p_user_id
$$;
comment on function public.ai_retry_load(uuid, uuid, integer, double precision, boolean) is
  'Reads what a decision needs, as of the database''s time; null when the user has no such generation. Writes nothing.';

create or replace function public.ai_retry_claim(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_number integer, p_version text, p_as_of timestamptz,
  p_lease_seconds double precision, p_abandoned_wait_seconds double precision, p_max_live integer,
  p_max_used integer, p_window_seconds double precision, p_count_own_successes boolean, p_charge boolean,
  p_idempotency_key text, p_waived text, p_operator text, p_answer_from integer
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_generation public.generations%rowtype;
  v_attempt public.ai_retry_attempts%rowtype;
  v_now timestamptz;
begin
  perform public.ai_retry_lock(p_user_id);
  select * into v_attempt from public.ai_retry_attempts a
    where a.token = p_token and a.generation_id = p_generation_id;
  if found then
    return pg_catalog.jsonb_build_object(
      'status', 'claimed', 'number', v_attempt.number, 'lease_expires_at', v_attempt.lease_expires_at);
  end if;
  select * into v_generation from public.generations g
    where g.id = p_generation_id and g.user_id = p_user_id for no key update;
  if not found then
    return pg_catalog.jsonb_build_object('status', 'not_found');
  end if;
  -- From here on the app may be waiting for us, perhaps while it holds what we ask for next: give way quickly.
  -- Who deletes the user meets claims of several generations one after the other: give way to them at once.
  perform pg_catalog.set_config('lock_timeout', '5ms', true);
  v_now := pg_catalog.clock_timestamp();
  if v_now > p_as_of + interval '10 seconds' then
    return pg_catalog.jsonb_build_object('status', 'stale');
  end if;

  update public.ai_retry_attempts a
    set state = 'closed', outcome = 'abandoned', code = 'LEASE_LOST', closed_at = v_now
    where (a.user_id = p_user_id or a.generation_id = p_generation_id)
      and a.outcome is null and a.state = 'running' and a.lease_expires_at <= v_now;
  if public.ai_retry_version(p_user_id, p_generation_id, v_generation.status) is distinct from p_version
    or exists (select from public.ai_retry_attempts a where a.generation_id = p_generation_id and a.outcome is null)
    or (
      select count(*) from public.ai_retry_attempts a
      where a.user_id = p_user_id and a.outcome is null and a.state = 'running'
    ) >= p_max_live
    or p_max_used is not null and (
      select u.captured + u.held
      from public.ai_retry_used(p_user_id, p_max_used, p_window_seconds, p_count_own_successes, v_now) u
    ) >= p_max_used
  then
    return pg_catalog.jsonb_build_object('status', 'stale');
  end if;

  insert into public.ai_retry_attempts (
    user_id, generation_id, number, state, token, started_at, lease_expires_at, next_attempt_at,
    idempotency_key, charge, waived, operator, answer_from, counted, provider_outcome
  ) values (
    p_user_id, p_generation_id, p_number, 'running', p_token, v_now,
    v_now + pg_catalog.make_interval(secs => p_lease_seconds),
    v_now + pg_catalog.make_interval(secs => p_lease_seconds + p_abandoned_wait_seconds),
    p_idempotency_key, p_charge, pg_catalog.string_to_array(p_waived, ','), p_operator,
    -- Who uses a stored answer calls nobody: should it be abandoned, it has cost nothing.
    p_answer_from, p_answer_from is null, case when p_answer_from is null then 'unknown' else 'not_generated' end
  ) returning * into v_attempt;
  perform pg_catalog.set_config('lock_timeout', '25ms', true);
  update public.generations g set status = 'processing', updated_at = v_now where g.id = p_generation_id;
  return pg_catalog.jsonb_build_object(
    'status', 'claimed', 'number', v_attempt.number, 'lease_expires_at', v_attempt.lease_expires_at);
end
$$;
comment on function public.ai_retry_claim(
  uuid, uuid, uuid, integer, text, timestamptz, double precision, double precision, integer, integer,
  double precision, boolean, boolean, text, text, text, integer
) is
  'Opens the admitted attempt under a lease, or answers stale when what admitted it is no longer true. Idempotent by token.';

create or replace function public.ai_retry_has_success(p_generation_id uuid)
returns boolean
language sql
stable
security invoker
set search_path = ''
as $$
  select exists (
    select from public.ai_retry_attempts a where a.generation_id = p_generation_id and a.outcome = 'succeeded'
  )
$$;
comment on function public.ai_retry_has_success(uuid) is
  'Whether an attempt of ours succeeded: that stands, whatever the app or its user wrote to the generation since.';

create or replace function public.ai_retry_passes(p_sqlstate text)
returns boolean
language sql
immutable
security invoker
set search_path = ''
as $$
  -- Links, isolation, deadlocks, resources, shutdowns, locks, internal faults: PostgreSQL documentation, appendix A.
  select pg_catalog.left(p_sqlstate, 2) in ('08', '25', '40', '53', '57', '58', 'XX') or p_sqlstate in ('55P03', '55006')
$$;
comment on function public.ai_retry_passes(text) is
  'Whether an error passes by itself: then the transaction is undone and repeated. Any other error is the app''s refusal.';

create or replace function public.ai_retry_record_event(
  p_generation public.generations, p_number integer, p_event_type text, p_code text, p_at timestamptz
)
returns void
language sql
volatile
security invoker
set search_path = ''
as $$
  insert into public.events (user_id, event_type, event_data, created_at)
  values (
    p_generation.user_id, p_event_type,
    pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
      'generation_id', p_generation.id, 'session_id', p_generation.session_id, 'attempt', p_number, 'code', p_code)),
    p_at
  )
$$;
comment on function public.ai_retry_record_event(public.generations, integer, text, text, timestamptz) is
  'Writes ai_generation_succeeded or ai_generation_failed for the app.';

create or replace function public.ai_retry_record_failure(
  p_generation public.generations, p_number integer, p_status text, p_code text, p_message text,
  p_duration_ms integer, p_at timestamptz
)
returns text
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_sqlstate text;
  v_constraint text;
  v_column text;
begin
  begin
    update public.generations g
      set status = p_status, duration_ms = coalesce(p_duration_ms, g.duration_ms), updated_at = p_at
      where g.id = p_generation.id;
    insert into public.generation_error_logs (generation_id, user_id, error_type, error_message, created_at)
      values (p_generation.id, p_generation.user_id, p_code, p_message, p_at);
    perform public.ai_retry_record_event(p_generation, p_number, 'ai_generation_failed', p_code, p_at);
    set constraints all immediate;
    return null;
  exception when others or assert_failure then
    get stacked diagnostics
      v_sqlstate = returned_sqlstate, v_constraint = constraint_name, v_column = column_name;
    if public.ai_retry_passes(v_sqlstate) then
      raise;
    end if;
    v_constraint := coalesce(nullif(v_constraint, ''), nullif(v_column, ''), v_sqlstate);
  end;
  -- The app refuses one of its rows. It must not say processing for ever: at least the status, if that is taken.
  begin
    update public.generations g set status = p_status, updated_at = p_at where g.id = p_generation.id;
    set constraints all immediate;
  exception when others or assert_failure then
    get stacked diagnostics v_sqlstate = returned_sqlstate;
    if public.ai_retry_passes(v_sqlstate) then
      raise;
    end if;
  end;
  return v_constraint;
end
$$;
comment on function public.ai_retry_record_failure(public.generations, integer, text, text, text, integer, timestamptz) is
  'Writes a failure for the app: status, error log, event. An app that refuses its rows can''t keep the attempt open: '
  'then it writes the status alone, if that is taken, and tells what refused the rest.';

create or replace function public.ai_retry_settled(
  p_generation public.generations, p_session jsonb, p_limit integer, p_window_seconds double precision,
  p_count_own_successes boolean, p_at timestamptz
)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select pg_catalog.jsonb_build_object(
    'status', 'succeeded',
    'generation', public.ai_retry_generation(p_generation) - 'prompt_data',
    'session', p_session,
    'quota', public.ai_retry_quota(p_generation.user_id, p_limit, p_window_seconds, p_count_own_successes, p_at))
$$;
comment on function public.ai_retry_settled(public.generations, jsonb, integer, double precision, boolean, timestamptz) is
  'What stands after a success, as JSON.';

create or replace function public.ai_retry_succeed(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_answer text, p_answer_from integer, p_wire_requests integer,
  p_duration_ms integer, p_rejected_message text, p_rejected_wait_seconds double precision,
  p_rejected_again_wait_seconds double precision, p_limit integer, p_window_seconds double precision,
  p_count_own_successes boolean
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_answer constant jsonb := p_answer::jsonb;
  v_generation public.generations%rowtype;
  v_attempt public.ai_retry_attempts%rowtype;
  v_found boolean;
  v_ours boolean;
  v_now timestamptz;
  v_status text;
  v_code text;
  v_session jsonb;
  v_sqlstate text;
  v_constraint text;
  v_column text;
  v_wait double precision;
begin
  perform public.ai_retry_lock(p_user_id);
  select * into v_generation from public.generations g
    where g.id = p_generation_id and g.user_id = p_user_id for no key update;
  v_found := found;
  -- From here on the app may be waiting for us, perhaps while it holds what we ask for next: give way quickly.
  perform pg_catalog.set_config('lock_timeout', '25ms', true);
  v_now := pg_catalog.clock_timestamp();
  v_ours := public.ai_retry_has_success(p_generation_id);
  select * into v_attempt from public.ai_retry_attempts a
    where a.token = p_token and a.generation_id = p_generation_id;
  if not found then
    return pg_catalog.jsonb_build_object('status', 'not_found');
  elsif v_found and v_attempt.code = 'SESSION_REJECTED' then
    return pg_catalog.jsonb_build_object(
      'status', 'session_rejected', 'constraint', v_attempt.refused_constraint,
      'retry_after_seconds', extract(epoch from v_attempt.next_attempt_at - v_attempt.closed_at));
  elsif v_found and v_attempt.outcome = 'succeeded' then
    v_session := public.ai_retry_session(v_attempt.session_id, p_user_id);
    return public.ai_retry_settled(
      v_generation, v_session, p_limit, p_window_seconds, p_count_own_successes, v_now);
  elsif v_attempt.outcome = 'succeeded' then
    return pg_catalog.jsonb_build_object('status', 'not_found');
  elsif not v_found then
    v_status := 'not_found';
    v_code := 'GENERATION_NOT_FOUND';
  elsif v_generation.status = 'success' or v_ours then
    v_status := 'already_succeeded';
    v_code := 'ALREADY_SUCCEEDED';
  elsif v_attempt.outcome is not null then
    v_status := 'closed';
  else
    begin
      v_session := public.ai_retry_create_session(v_generation, v_answer -> 'output');
      if v_session ->> 'id' is null then
        raise exception 'ai_retry_create_session returned no row with an id' using errcode = 'null_value_not_allowed';
      end if;
      update public.generations g
        set status = 'success', session_id = (v_session ->> 'id')::uuid, updated_at = v_now,
          duration_ms = coalesce(p_duration_ms, g.duration_ms)
        where g.id = p_generation_id
        returning g.* into v_generation;
      if not found or v_generation.session_id is distinct from (v_session ->> 'id')::uuid then
        raise exception 'a trigger on generations keeps its session_id' using errcode = 'triggered_action_exception';
      end if;
      perform public.ai_retry_record_event(v_generation, v_attempt.number, 'ai_generation_succeeded', null, v_now);
      set constraints all immediate;
      v_status := 'succeeded';
    exception when others or assert_failure then
      get stacked diagnostics
        v_sqlstate = returned_sqlstate, v_constraint = constraint_name, v_column = column_name;
      if public.ai_retry_passes(v_sqlstate) then
        raise;
      end if;
      v_constraint := coalesce(nullif(v_constraint, ''), nullif(v_column, ''), v_sqlstate);
      v_status := 'session_rejected';
      v_code := 'SESSION_REJECTED';
    end;
  end if;

  if v_status = 'session_rejected' then
    select case when a.refused_constraint = v_constraint then p_rejected_again_wait_seconds end into v_wait
      from public.ai_retry_attempts a
      where a.generation_id = p_generation_id and a.code = 'SESSION_REJECTED'
      order by a.number desc limit 1;
    v_wait := coalesce(v_wait, p_rejected_wait_seconds);
    -- The block above was undone, and with it the row in v_generation.
    select * into v_generation from public.generations g where g.id = p_generation_id;
    perform public.ai_retry_record_failure(
      v_generation, v_attempt.number, 'error', 'SESSION_REJECTED', p_rejected_message, p_duration_ms, v_now);
  end if;

  -- What the provider did is true whatever became of the attempt; the rest is decided while it is open, once.
  update public.ai_retry_attempts a
    set model = v_answer ->> 'model', usage = nullif(v_answer -> 'usage', 'null'),
      provider_id = v_answer ->> 'provider_id', wire_requests = greatest(a.wire_requests, p_wire_requests),
      provider_outcome = case when p_answer_from is null then 'generated' else 'not_generated' end,
      answer_from = p_answer_from,
      stored_answer = case
        when v_status = 'succeeded' then null
        when v_status <> 'not_found' and not v_ours and p_answer_from is null and a.discarded_at is null then v_answer
        else a.stored_answer end,
      state = 'closed',
      closed_at = coalesce(a.closed_at, v_now),
      outcome = coalesce(a.outcome, case when v_status = 'succeeded' then v_status else 'failed' end),
      code = case when a.outcome is null then v_code else a.code end,
      -- A refused session is not the user's failure. What the app or its user did meanwhile saves no attempt or wait.
      counted = case when v_status = 'session_rejected' then false else a.counted end,
      next_attempt_at = case v_status
        when 'succeeded' then null
        when 'session_rejected' then v_now + pg_catalog.make_interval(secs => v_wait)
        else a.next_attempt_at end,
      refused_constraint = case when a.outcome is null then v_constraint else a.refused_constraint end,
      session_id = case when v_status = 'succeeded' then v_generation.session_id end,
      captured_at = case when v_status = 'succeeded' and a.charge then v_now end
    where a.token = p_token;
  if v_status = 'succeeded' then
    if not found then
      raise exception 'the attempt vanished while it was settled' using errcode = 'serialization_failure';
    end if;
    update public.ai_retry_attempts a set stored_answer = null
      where a.generation_id = p_generation_id and a.user_id = p_user_id and a.stored_answer is not null;
    return public.ai_retry_settled(
      v_generation, v_session, p_limit, p_window_seconds, p_count_own_successes, v_now);
  end if;
  return pg_catalog.jsonb_build_object(
    'status', v_status, 'session_id', v_generation.session_id, 'answer_kept', v_status <> 'not_found' and not v_ours,
    'constraint', v_constraint, 'retry_after_seconds', v_wait);
end
$$;
comment on function public.ai_retry_succeed(
  uuid, uuid, uuid, text, integer, integer, integer, text, double precision, double precision, integer,
  double precision, boolean
) is
  'Closes the attempt with its session and captures the held unit; keeps the answer when that can''t be. Idempotent by token.';

create or replace function public.ai_retry_fail(
  p_user_id uuid, p_generation_id uuid, p_token uuid, p_status text, p_code text, p_message text, p_reason text,
  p_counted boolean, p_provider_outcome text, p_delay_seconds double precision, p_duration_ms integer, p_model text,
  p_usage text, p_provider_id text, p_wire_requests integer
)
returns jsonb
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_generation public.generations%rowtype;
  v_attempt public.ai_retry_attempts%rowtype;
  v_found boolean;
  v_success boolean;
  v_now timestamptz;
  v_constraint text;
begin
  perform public.ai_retry_lock(p_user_id);
  select * into v_generation from public.generations g
    where g.id = p_generation_id and g.user_id = p_user_id for no key update;
  v_found := found;
  -- From here on the app may be waiting for us, perhaps while it holds what we ask for next: give way quickly.
  perform pg_catalog.set_config('lock_timeout', '25ms', true);
  v_now := pg_catalog.clock_timestamp();
  select * into v_attempt from public.ai_retry_attempts a
    where a.token = p_token and a.generation_id = p_generation_id;
  if not found then
    return pg_catalog.jsonb_build_object('status', 'not_found');
  end if;
  v_success := v_generation.status = 'success' or public.ai_retry_has_success(p_generation_id);

  if v_attempt.outcome is null and v_found and v_success is not true then
    v_constraint := public.ai_retry_record_failure(
      v_generation, v_attempt.number, p_status, p_code, p_message, p_duration_ms, v_now);
  end if;
  -- What the provider did is true whatever became of the attempt; the rest only while it is open.
  update public.ai_retry_attempts a
    set model = p_model, usage = p_usage::jsonb, provider_id = p_provider_id,
      wire_requests = greatest(a.wire_requests, p_wire_requests), provider_outcome = p_provider_outcome,
      state = 'closed', outcome = coalesce(a.outcome, 'failed'), closed_at = coalesce(a.closed_at, v_now),
      code = case when a.outcome is null then p_code else a.code end,
      reason = case when a.outcome is null then p_reason else a.reason end,
      counted = case when a.outcome is null then p_counted else a.counted end,
      refused_constraint = case when a.outcome is null then v_constraint else a.refused_constraint end,
      next_attempt_at = case when a.outcome is null
        then v_now + pg_catalog.make_interval(secs => p_delay_seconds) else a.next_attempt_at end
    where a.token = p_token and a.outcome is distinct from 'succeeded' and a.stored_answer is null;

  return pg_catalog.jsonb_build_object(
    'status', case
      when not v_found then 'not_found'
      when v_success then 'already_succeeded'
      when v_attempt.outcome in ('abandoned', 'cancelled') then 'closed'
      else 'failed' end,
    'session_id', v_generation.session_id, 'answer_kept', false);
end
$$;
comment on function public.ai_retry_fail(
  uuid, uuid, uuid, text, text, text, text, boolean, text, double precision, integer, text, text, text, integer
) is
  'Closes the attempt without a session and gives its unit back. Idempotent by token.';

create or replace function public.ai_retry_discard_answer(p_user_id uuid, p_generation_id uuid, p_operator text)
returns integer
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_discarded integer;
begin
  perform public.ai_retry_lock(p_user_id);
  update public.ai_retry_attempts a
    set stored_answer = null, discarded_at = pg_catalog.clock_timestamp(), discarded_by = p_operator
    where a.user_id = p_user_id and a.generation_id = p_generation_id and a.stored_answer is not null;
  get diagnostics v_discarded = row_count;
  return v_discarded;
end
$$;
comment on function public.ai_retry_discard_answer(uuid, uuid, text) is
  'Drops the stored answers of a generation and records who did; tells how many there were.';

create or replace function public.ai_retry_reap()
returns integer
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_attempt public.ai_retry_attempts%rowtype;
  v_generation public.generations%rowtype;
  v_now timestamptz := pg_catalog.clock_timestamp();
begin
  for v_attempt in
    select * from public.ai_retry_attempts a
    where a.outcome is null and a.state = 'running' and a.lease_expires_at <= v_now
    order by a.lease_expires_at
  loop
    -- Waits for nobody: who is busy now is tidied another time, or by the user's next claim.
    continue when not pg_catalog.pg_try_advisory_xact_lock(
      pg_catalog.hashtextextended('ai_retry:' || v_attempt.user_id::text, 0));
    perform from public.generations g where g.id = v_attempt.generation_id;
    if found then
      select * into v_generation from public.generations g
        where g.id = v_attempt.generation_id for no key update skip locked;
      continue when not found;
      perform pg_catalog.set_config('lock_timeout', '25ms', true);
      if v_generation.status = 'processing' then
        perform public.ai_retry_record_failure(
          v_generation, v_attempt.number, 'timeout', 'LEASE_LOST', 'The attempt was not finished in time.', null, v_now);
      end if;
    end if;
    update public.ai_retry_attempts a
      set state = 'closed', outcome = 'abandoned', code = 'LEASE_LOST', closed_at = v_now
      where a.token = v_attempt.token and a.outcome is null;
    return 1;  -- one per transaction: nobody waits for more than one row of ours
  end loop;
  return 0;
end
$$;
comment on function public.ai_retry_reap() is
  'For pg_cron: closes one attempt whose lease ran out and tells the app; answers how many (0 or 1). Only tidies: a '
  'claim would decide the same. Call it in transactions of their own until it answers 0.';

-- 5. The seam: the app's own way to make a session out of an output. Ours only for a sessions table of ours.

do $seam$
begin
  if to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)') is null
    and obj_description('public.sessions'::regclass, 'pg_class') like 'Made by ai-retry%'
  then
    create function public.ai_retry_create_session(p_generation public.generations, p_output jsonb)
    returns jsonb
    language sql
    volatile
    security invoker
    set search_path = ''
    as $body$
      insert into public.sessions as s (user_id, content)
      values (p_generation.user_id, p_output)
      returning pg_catalog.to_jsonb(s)
    $body$;
    comment on function public.ai_retry_create_session(public.generations, jsonb) is
      'Made by ai-retry: creates the session of a generation and returns its row. Replace it to make your own.';
    revoke all on function public.ai_retry_create_session(public.generations, jsonb) from public, anon, authenticated;
    grant execute on function public.ai_retry_create_session(public.generations, jsonb) to service_role;
  elsif to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)') is null then
    raise notice 'ai-retry: public.sessions is your own table: create public.ai_retry_create_session(public.generations, jsonb) returns jsonb; retries are refused as NOT_CONFIGURED until then';
  end if;
end
$seam$;

-- 6. Only the service role may execute ours. Named one by one: default privileges are not to be relied on.

do $grants$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure
    from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.proname in (
      'ai_retry_lock', 'ai_retry_version', 'ai_retry_used', 'ai_retry_quota', 'ai_retry_generation', 'ai_retry_load',
      'ai_retry_claim', 'ai_retry_record_event', 'ai_retry_record_failure', 'ai_retry_succeed', 'ai_retry_settled',
      'ai_retry_fail', 'ai_retry_discard_answer', 'ai_retry_reap', 'ai_retry_session', 'ai_retry_passes',
      'ai_retry_has_success')
  loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end
$grants$;

-- 7. Tell what an app's own policies open. Our decisions don't rest on those columns.

do $notice$
declare
  v_policy record;
begin
  for v_policy in
    select p.policyname, p.cmd from pg_catalog.pg_policies p
    where p.schemaname = 'public' and p.tablename = 'generations' and p.cmd in ('INSERT', 'UPDATE', 'ALL')
      and p.roles && array['public', 'anon', 'authenticated']::name[]
  loop
    raise notice 'ai-retry: the policy "%" (%) lets end users write public.generations: prompt_data, model, id, status and created_at are then theirs to choose; restrict the models with AI_MODELS, and guard id, status and created_at, on which attempts and your own successes are counted',
      v_policy.policyname, v_policy.cmd;
  end loop;
  if exists (
    select from pg_catalog.pg_proc p, (values ('anon'), ('authenticated')) as r (name)
    where p.oid = to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)')
      and has_function_privilege(r.name, p.oid, 'execute')
  ) then
    raise notice 'ai-retry: end users may execute your ai_retry_create_session; run: revoke all on function public.ai_retry_create_session(public.generations, jsonb) from public, anon, authenticated';
  end if;
end
$notice$;

-- 8. The rehearsal: claim, fail, claim, succeed on the app's own tables, rolled back. What refuses shows now.

do $rehearsal$
declare
  v_user_id uuid;
  v_generation_id uuid;
  v_generation public.generations%rowtype;
  v_attempt record;
  v_token uuid;
  v_result jsonb;
  v_step text := 'find a generation';
  v_refused text;
  v_sqlstate text;
  v_constraint text;
  v_table text;
  v_message text;
begin
  begin
    select g.id, g.user_id into v_generation_id, v_user_id
      from public.generations g join auth.users u on u.id = g.user_id
      where g.status in ('error', 'timeout')
        and not exists (
          select from public.generations o where o.user_id = g.user_id and o.status in ('queued', 'processing')
        )
      limit 1;
    if v_generation_id is null then
      select u.id into v_user_id from auth.users u
        where not exists (select from public.generations o where o.user_id = u.id) limit 1;
      if v_user_id is null then
        insert into auth.users (id) values (gen_random_uuid()) returning id into v_user_id;
      end if;
      insert into public.generations (user_id, status) values (v_user_id, 'error') returning id into v_generation_id;
    end if;
    -- The books of this user and generation are cleared for the rehearsal; all of it is rolled back.
    delete from public.ai_retry_attempts a where a.user_id = v_user_id or a.generation_id = v_generation_id;
    if pg_has_role(current_user, 'service_role', 'member') then
      set local role service_role;  -- with its grants alone
    end if;
    for v_attempt in select * from (values (2, 'error'), (3, 'timeout'), (4, null)) as a (number, failed_as) loop
      v_step := 'claim';
      v_token := gen_random_uuid();
      v_result := public.ai_retry_load(v_user_id, v_generation_id, 2147483647, 86400, false);
      v_result := public.ai_retry_claim(
        v_user_id, v_generation_id, v_token, v_attempt.number, v_result ->> 'version',
        (v_result ->> 'as_of')::timestamptz, 35, 2, 2147483647, null, 86400, false, true, null, '', null, null);
      if v_result ->> 'status' <> 'claimed' then
        raise exception 'the claim was answered %', v_result ->> 'status';
      end if;
      if v_attempt.failed_as is not null then
        v_step := 'fail';
        v_result := public.ai_retry_fail(
          v_user_id, v_generation_id, v_token, v_attempt.failed_as, 'AI_INVALID_OUTPUT',
          'The AI provider''s answer does not have the form asked for.', 'rehearsal', true, 'unknown', 2, 1, null, null,
          null, 1);
      else
        v_step := 'succeed';
        select * into v_generation from public.generations g where g.id = v_generation_id;
        perform public.ai_retry_record_event(v_generation, 4, 'ai_generation_succeeded', null, clock_timestamp());
        set constraints all immediate;
        if obj_description(to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)'), 'pg_proc')
          like 'Made by ai-retry%'
        then
          v_result := public.ai_retry_succeed(
            v_user_id, v_generation_id, v_token, '{"output": {}}', null, 1, 1, 'rehearsal', 2, 2, 2147483647, 86400, false);
        end if;
      end if;
      select a.refused_constraint into v_refused from public.ai_retry_attempts a where a.token = v_token;
      if v_refused is not null then
        raise exception 'the rows are refused by %', v_refused;
      end if;
    end loop;
    raise exception using errcode = 'ARROK';
  exception
    when sqlstate 'ARROK' then
      null;  -- rolled back, as meant
    when others then
      get stacked diagnostics
        v_sqlstate = returned_sqlstate, v_constraint = constraint_name, v_table = table_name, v_message = message_text;
      if v_step = 'find a generation' then
        raise notice 'ai-retry: no rehearsal: there is no failed generation yet and none could be made (%)', v_sqlstate;
      else
        raise exception using
          errcode = 'object_not_in_prerequisite_state',
          message = format(
            E'ai-retry can''t be installed yet; nothing was changed:\n  - rehearsing "%s": %s%s%s; change what refuses it '
            'so that it allows what ai-retry writes (statuses queued, processing, success, error, timeout; events '
            'ai_generation_succeeded, ai_generation_failed; error types AI_*, SESSION_REJECTED, LEASE_LOST), then apply again',
            v_step, v_message,
            case when v_constraint <> '' then format(' (constraint %s on %s)', v_constraint, v_table) else '' end,
            case when v_refused is null and v_sqlstate in ('42P01', '42883')
              then ' (a trigger function of yours needs its own search_path, since ai-retry''s is empty)' else '' end);
      end if;
  end;
end
$rehearsal$;

reset lock_timeout;
reset statement_timeout;
