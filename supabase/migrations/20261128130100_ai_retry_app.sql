-- ai-retry and the app: the tables generations, sessions, generation_error_logs and events, where they are missing, and
-- the default binding to them. What is there already keeps its rows, its grants, its policies and its source.
--
-- Written by `make migration` from supabase/schemas. Looks first, and stops before any change if the app's tables can't
-- be used; ends with a rehearsal that is rolled back.

set lock_timeout = '5s';
set statement_timeout = '60s';

-- look

-- Stops before any change where this is no Supabase project.

do $look$
declare
  v_obstacles constant text[] := array(
    select format('there is no role %I', r.name)
    from (values ('anon'), ('authenticated'), ('service_role')) as r (name)
    where not exists (select from pg_catalog.pg_roles where rolname = r.name)
    union all select 'there is no table auth.users' where to_regclass('auth.users') is null);
begin
  if v_obstacles <> '{}' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = E'ai-retry can''t be installed yet; nothing was changed; apply this to a Supabase project:\n  - '
        || array_to_string(v_obstacles, E'\n  - ');
  end if;
end
$look$;

-- seed/look

-- Names every obstacle in the app's tables in one message, before anything is changed.

do $look$
declare
  v_obstacles constant text[] := array(
    select format('public.%I must be a table', c.relname) from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind not in ('r', 'p')
      and c.relname in ('generations', 'sessions', 'generation_error_logs', 'events')
    union all select case
      when t.typname is null then format('public.%I needs a column %I of type uuid', e.tab, n.col)
      when t.typtype = 'e' then
        format(
          E'public.%1$I.%2$I is the enum %3$s and must be text; run first:\n'
          '      alter table public.%1$I alter column %2$I drop default;\n'
          '      alter table public.%1$I alter column %2$I type text using %2$I::text;',
          e.tab, n.col, format_type(a.atttypid, null))
        || coalesce(
          E'\n      ' || format('alter table public.%I alter column %I set default ', e.tab, n.col)
          || split_part(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '::', 1) || ';', '')
      else format('public.%I.%I is %s and must be %s',
        e.tab, n.col, format_type(a.atttypid, null), array_to_string(e.types::text[], ' or '))
    end
    from (values
      ('generations', '{id,user_id}', '{uuid}', true), ('sessions', '{id}', '{uuid}', true),
      ('generations', '{session_id}', '{uuid}', false), ('events', '{user_id}', '{uuid}', false),
      ('generation_error_logs', '{generation_id,user_id}', '{uuid}', false),
      ('generations', '{status,model}', '{text,varchar}', false), ('events', '{event_type}', '{text,varchar}', false),
      ('generation_error_logs', '{error_type,error_message}', '{text,varchar}', false),
      ('generations', '{prompt_data}', '{jsonb,json}', false), ('events', '{event_data}', '{jsonb,json}', false),
      ('generations', '{duration_ms}', '{int4,int8,numeric,float8}', false),
      ('generations', '{created_at,updated_at}', '{timestamptz}', false),
      ('generation_error_logs', '{created_at}', '{timestamptz}', false), ('events', '{created_at}', '{timestamptz}', false)
    ) as e (tab, columns, types, required)
    cross join lateral unnest(e.columns::text[]) n (col)
    join pg_catalog.pg_class c on c.relname = e.tab and c.relnamespace = 'public'::regnamespace
    left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = n.col and not a.attisdropped
    left join pg_catalog.pg_type t on t.oid = a.atttypid
    left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where case when t.typname is null then e.required else not t.typname = any (e.types::text[]) end
    union all select format('public.%I.id must be unique: make it the primary key', c.relname) from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relname in ('generations', 'sessions') and c.relkind = 'r'
      and not exists (
        select from pg_catalog.pg_index i
        where i.indrelid = c.oid and i.indisunique and i.indnkeyatts = 1 and i.indpred is null
          and pg_catalog.pg_get_indexdef(i.indexrelid, 1, false) = 'id')
    union all select 'public.ai_retry_create_session must return jsonb, the created row'
    where exists (
      select from pg_catalog.pg_proc p
      where p.pronamespace = 'public'::regnamespace and p.proname = 'ai_retry_create_session'
        and p.prorettype <> 'jsonb'::regtype));
begin
  if v_obstacles <> '{}' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = E'ai-retry can''t be installed yet; nothing was changed:\n  - ' || array_to_string(v_obstacles, E'\n  - ');
  end if;
end
$look$;

-- schema

-- Decisions are made in Python (ai_retry.domain.decide) and applied here, where they are compared and counted. These
-- rules are decided here, since only the database sees in time what they are about; each has a test that is marked with
-- its name:
--
--   used         units captured in the window; where the change says so, also the app's own successes in it
--   held         units of all open attempts, over or not; a snapshot leaves out what will be released when it is closed
--   live         running attempts whose lease is valid; for a begin all that run, since what is over has been closed
--   override     a user's own limit and window go before the change's; no window is longer than ten years
--   version      status, highest number, queued or not, its wait, stored answer, override
--   age          a snapshot is at most ten seconds old
--   number       one more than the highest, at least 2; 1 where the begin creates the generation
--   creation     a generation that a begin creates is there, as asked and visible, or nothing of it is
--   copied       user, number, hold and key of a closed attempt are those of its open row
--   over         only what is over by the database's clock, under its token, can be abandoned
--   renewal      never shortens a lease, and never exceeds what the begin allowed
--   once         one open attempt and one success per generation, one generation per session
--   passing      which errors undo a settle, that is sent again; any other is the app's rejection
--   conflicting  which rejections their user can cure
--   again        the same cause rejects the same answer: a longer wait, and no second report
--   late         an answer whose attempt is closed is stored with it, once
--   unreported       an app whose row is locked is informed by a later begin
--   line         whose message is next, and how many messages of one user there are
--   hold         a route that an operator holds opens when its time is over, whatever calls show of it
--   outage       how many failures in a row close a route, and how many calls may run when it opens

-- Parts and the binding live in a schema that the Data API does not expose.

create schema if not exists ai_retry;
revoke all on schema ai_retry from public, anon, authenticated;
grant usage on schema ai_retry to service_role;

comment on schema ai_retry is 'ai-retry: parts of its functions, and the binding to the app''s tables (app_*). Operators only.';

-- seed/sessions

do $app$
begin
if to_regclass('public.sessions') is null then
-- What successful generations create, where the app has no such table.

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

comment on table public.sessions is 'Created by ai-retry: what successful generations create.';
comment on column public.sessions.content is 'The output of the AI provider, valid under the context''s response schema.';
end if;
end
$app$;

-- seed/generations

do $app$
begin
if to_regclass('public.generations') is null then
-- AI results that users asked for, where the app has no such table.

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

comment on table public.generations is 'Created by ai-retry: AI results that users asked for.';
comment on column public.generations.prompt_data is
  'The context to ask again: {"messages": [...], "parameters": {...}, "response_schema": {...}}.';
end if;
end
$app$;

-- seed/generation_error_logs

do $app$
begin
if to_regclass('public.generation_error_logs') is null then
-- Failed attempts, for the app, where it has no such table.

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

comment on table public.generation_error_logs is 'Created by ai-retry: one row per attempt that failed.';
end if;
end
$app$;

-- seed/events

do $app$
begin
if to_regclass('public.events') is null then
-- What happened to a user's generations, where the app has no such table.

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

comment on table public.events is 'Created by ai-retry: what happened to a user''s generations.';
end if;
end
$app$;

-- seed/columns

-- Columns and privileges that the binding needs, where a table of the app lacks them.

alter table public.generations
  add column if not exists status text, add column if not exists model text,
  add column if not exists prompt_data jsonb, add column if not exists duration_ms integer,
  add column if not exists session_id uuid, add column if not exists updated_at timestamptz,
  add column if not exists created_at timestamptz not null default statement_timestamp();
alter table public.generation_error_logs
  add column if not exists generation_id uuid, add column if not exists user_id uuid,
  add column if not exists error_type text, add column if not exists error_message text,
  add column if not exists created_at timestamptz default statement_timestamp();
alter table public.events
  add column if not exists user_id uuid, add column if not exists event_type text,
  add column if not exists event_data jsonb,
  add column if not exists created_at timestamptz default statement_timestamp();

grant select, insert, update on table public.generations to service_role;
grant select, insert on table public.sessions to service_role;
grant select, insert on table public.generation_error_logs, public.events to service_role;

-- seed/statuses

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
      execute format(
        'alter table public.generations drop constraint %1$I, add constraint %1$I check ((%2$s) or status in '
        '(''queued'', ''processing'', ''success'', ''error'', ''timeout'')) not valid',
        v_check.conname, v_check.expression);
    end if;
  end loop;
end
$widen$;

-- seed/indexes

-- Indexes on the app's tables, where it has none like them. On a large table build them before, concurrently and under
-- these names; then nothing is left to do here. No column of them is updated: a status that changes costs no entry.

do $index$
declare
  v_index record;
begin
  for v_index in
    select * from (values
      -- The app's own successes in the quota's window; failed generations, newest first; the last error of one.
      ('ai_retry_generations_user_id_created_at_idx', 'generations', array['user_id', 'created_at']),
      ('ai_retry_generations_created_at_idx', 'generations', array['created_at', 'id']),
      ('ai_retry_generation_error_logs_generation_id_idx', 'generation_error_logs', array['generation_id'])
    ) as i (name, tab, keys)
    where not exists (
      select from pg_catalog.pg_index x
      where x.indrelid = format('public.%I', i.tab)::regclass and x.indpred is null and x.indisvalid
        and i.keys = array(
          select pg_catalog.pg_get_indexdef(x.indexrelid, n, true) from generate_series(1, cardinality(i.keys)) n))
  loop
    execute format('create index if not exists %I on public.%I (%s)', v_index.name, v_index.tab,
      array_to_string(v_index.keys, ', '));
  end loop;
end
$index$;

-- app

-- The binding: the only SQL of ai-retry that names the app's tables. It belongs to the app; ai-retry never replaces it.
-- This is the default, for the tables generations, sessions, generation_error_logs and events.
--
-- Each function says what it must do. Statuses are ai-retry's words: queued, processing, success, error, timeout; a
-- binding translates the app's own. Functions that write run the app's triggers, so that their search_path has public.

do $app$
begin
create function ai_retry.app_read(p_generation_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select pg_catalog.jsonb_build_object(
      'id', g.id, 'user_id', g.user_id, 'status', g.status, 'hidden', false, 'model', g.model,
      'prompt_data', g.prompt_data, 'session_id', g.session_id, 'duration_ms', g.duration_ms,
      'created_at', g.created_at, 'updated_at', g.updated_at,
      -- Users may be able to write session_id: someone else's session is not theirs.
      'session', case when g.session_id is not null then ai_retry.app_session(g.session_id::text, g.user_id) end,
      'can_create_session', pg_catalog.to_regprocedure(
        'public.ai_retry_create_session(public.generations,jsonb)') is not null)
    from public.generations g where g.id = p_generation_id
  );
end
$$;
comment on function ai_retry.app_read(uuid) is
  'Returns a generation of any user in ai-retry''s words, with its session and whether sessions can be created; null only when the row is absent.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_session(p_session_id text, p_user_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select r.session
    from (select pg_catalog.to_jsonb(s) as session from public.sessions s where s.id = p_session_id::uuid) r
    where coalesce(r.session ->> 'user_id', p_user_id::text) = p_user_id::text
  );
end
$$;
comment on function ai_retry.app_session(text, uuid) is
  'Returns a session, for a success of ours whose generation no longer points at it; null when it is absent, or another user''s.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_lock(p_generation_id uuid, p_timeout text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_catalog.set_config('lock_timeout', p_timeout, true);
  return (
    select pg_catalog.jsonb_build_object('user_id', g.user_id, 'status', g.status, 'hidden', false)
    from public.generations g where g.id = p_generation_id for no key update
  );
end
$$;
comment on function ai_retry.app_lock(uuid, text) is
  'Locks the generation''s row, waiting no longer than the timeout (the app may wait for us), and returns owner, status and hidden; null when it is absent.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_write(
  p_generation_id uuid, p_status text, p_session_id text, p_duration_ms integer, p_at timestamptz
) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, public, extensions, pg_temp as $$
begin
  update public.generations g
    set status = p_status, session_id = coalesce(p_session_id::uuid, g.session_id),
      duration_ms = coalesce(p_duration_ms, g.duration_ms), updated_at = p_at
    where g.id = p_generation_id;
end
$$;
comment on function ai_retry.app_write(uuid, text, text, integer, timestamptz) is
  'Writes what the generation says: its status, and, where given, its session and the duration of the call.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_create_session(p_user_id uuid, p_generation_id uuid, p_output jsonb, p_attempt jsonb)
returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, public, extensions, pg_temp as $$
begin
  return (select public.ai_retry_create_session(g, p_output) from public.generations g where g.id = p_generation_id);
end
$$;
comment on function ai_retry.app_create_session(uuid, uuid, jsonb, jsonb) is
  'Creates the session from the output, and returns its row with an id. p_attempt: number, model, usage.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_create_generation(p_user_id uuid, p_generation_id uuid, p_request jsonb) returns boolean
language plpgsql volatile security invoker set search_path = pg_catalog, public, extensions, pg_temp as $$
begin
  insert into public.generations (id, user_id, status, model, prompt_data)
    values (p_generation_id, p_user_id, 'processing', p_request ->> 'model', p_request -> 'prompt_data')
    on conflict (id) do nothing;
  return found;
end
$$;
comment on function ai_retry.app_create_generation(uuid, uuid, jsonb) is
  'Inserts a generation for its first call, as the app itself does: p_request has prompt_data, model and whatever column '
  'has to be given. Returns false, and changes nothing, where the id is there already. The role needs insert.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_may_create_session(p_user_id uuid, p_generation_id uuid) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return null;
end
$$;
comment on function ai_retry.app_may_create_session(uuid, uuid) is
  'Asked before any call: null where a session could be created now, as far as is known; else why it could not, in words '
  'for its user, who can cure it, such as: You have a planned session already.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_report(
  p_user_id uuid, p_generation_id uuid, p_event text, p_code text, p_message text, p_attempt integer, p_at timestamptz
) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, public, extensions, pg_temp as $$
begin
  if p_message is not null then
    insert into public.generation_error_logs (generation_id, user_id, error_type, error_message, created_at)
    values (p_generation_id, p_user_id, p_code, p_message, p_at);
  end if;
  insert into public.events (user_id, event_type, event_data, created_at)
  values (p_user_id, p_event, pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
    'generation_id', p_generation_id, 'attempt', p_attempt, 'code', p_code)), p_at);
end
$$;
comment on function ai_retry.app_report(uuid, uuid, text, text, text, integer, timestamptz) is
  'Writes an event, and, for a failure, an error log. Where it fails, the attempt is closed all the same.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_own_successes(p_user_id uuid, p_since timestamptz, p_limit integer, p_at timestamptz)
returns setof timestamptz
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select least(g.created_at, p_at)  -- the app's instants may be any, also infinite
    from public.generations g
    where g.user_id = p_user_id and g.created_at > p_since and g.status = 'success'
      and (  -- a subquery for each row: their number is small, and a join would read everybody's attempts
        select c.number from public.ai_retry_attempts c where c.generation_id = g.id and c.outcome = 'succeeded'
      ) is null
    order by g.created_at desc limit p_limit;
end
$$;
comment on function ai_retry.app_own_successes(uuid, timestamptz, integer, timestamptz) is
  'Returns when the user''s newest successes were created that no attempt of ai-retry made.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_strangers(p_generation_ids uuid[], p_user_id uuid) returns setof uuid
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return query select i.id from pg_catalog.unnest(p_generation_ids) i (id)
    where not exists (select from public.generations g where g.id = i.id and g.user_id = p_user_id);
end
$$;
comment on function ai_retry.app_strangers(uuid[], uuid) is
  'Returns those of the ids that are no generation of this user: absent, or another user''s.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_look_up(p_generation_ids uuid[]) returns table (id uuid, model text)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return query select g.id, g.model::text from public.generations g where g.id = any (p_generation_ids);
end
$$;
comment on function ai_retry.app_look_up(uuid[]) is
  'Returns those of the generations that are there, each with its model.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_not_succeeded(p_generation_ids uuid[]) returns setof uuid
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_custom_plan'
as $$
begin
  return query select g.id from public.generations g
    where (p_generation_ids is null or g.id = any (p_generation_ids)) and g.status is distinct from 'success';
end
$$;
comment on function ai_retry.app_not_succeeded(uuid[]) is
  'Returns those of the generations that are there and do not say success; null asks about all.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_find(
  p_since timestamptz, p_before_at timestamptz, p_before_id uuid, p_user_id uuid, p_limit integer
) returns table (id uuid, status text, model text, created_at timestamptz)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_custom_plan'
as $$
declare
  v_found integer;
begin
  return query
    select g.id, g.status::text, g.model::text, g.created_at from public.generations g
    where (g.created_at, g.id) < (p_before_at, p_before_id) and g.created_at >= coalesce(p_since, '-infinity')
      and (p_user_id is null or g.user_id = p_user_id)
    order by g.created_at desc, g.id desc limit p_limit;
  get diagnostics v_found = row_count;
  if p_since is null and v_found < p_limit then
    return query  -- last, those without an instant
      select g.id, g.status::text, g.model::text, g.created_at from public.generations g
      where g.created_at is null and (p_before_at is not null or g.id < p_before_id)
        and (p_user_id is null or g.user_id = p_user_id)
      order by g.id desc limit p_limit - v_found;
  end if;
end
$$;
comment on function ai_retry.app_find(timestamptz, timestamptz, uuid, uuid, integer) is
  'Lists generations of whatever status, but hidden ones, that were created before an instant and id, the newest first; of '
  'one user, unless that is null. Unless p_since is given, those without an instant follow, by id; p_before_at is null '
  'among them. An index of the instant and the id keeps it fast.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_last_error(p_generation_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select pg_catalog.jsonb_build_object('code', l.error_type, 'at', l.created_at)
    from public.generation_error_logs l where l.generation_id = p_generation_id
    order by l.created_at desc nulls last limit 1
  );
end
$$;
comment on function ai_retry.app_last_error(uuid) is
  'Returns the code of the generation''s last error that the app has logged, and when; never its message, in which a prompt '
  'may be. Null when there is no error.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_report_recovery(
  p_user_id uuid, p_run_id uuid, p_plan_id text, p_retried integer, p_succeeded integer, p_at timestamptz
) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, public, extensions, pg_temp as $$
begin
  insert into public.events (user_id, event_type, event_data, created_at)
  values (p_user_id, 'ai_generations_recovered', pg_catalog.jsonb_build_object(
    'plan_id', p_plan_id, 'run_id', p_run_id, 'retried', p_retried, 'succeeded', p_succeeded), p_at);
end
$$;
comment on function ai_retry.app_report_recovery(uuid, uuid, text, integer, integer, timestamptz) is
  'Writes an event of what a recovery did for one user: users may read their events, so that it names no operator. Where it '
  'fails, the recovery is recorded all the same.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_forget() returns trigger
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '25ms' as $$
begin
  if pg_catalog.has_table_privilege(pg_catalog.to_regclass('public.ai_retry_answers'), 'delete') then
    delete from public.ai_retry_answers a using gone g where a.generation_id = g.id;
  end if;
  return null;
exception when others then  -- nothing of ours is in the way of a deletion
  raise warning 'ai-retry: a stored answer was left to ai_retry_prune (%)', sqlstate;
  return null;
end
$$;
comment on function ai_retry.app_forget() is
  'For a trigger on the table that holds generations: after delete, referencing old table as gone, for each statement. '
  'Removes their stored answers where the role that deletes may; ai_retry_prune removes what it leaves.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

do $app$
begin
create function ai_retry.app_describe() returns jsonb
language plpgsql immutable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return '{
    "version": 1, "generations": "public.generations",
    "session_function": "public.ai_retry_create_session(public.generations,jsonb)",
    "tables": {
      "public.generations": ["select", "update"], "public.sessions": ["select", "insert"],
      "public.generation_error_logs": ["select", "insert"], "public.events": ["insert"]}, "triggers": []
  }'::jsonb;
end
$$;
comment on function ai_retry.app_describe() is
  'Names, for ai-retry doctor, the tables that this binding uses, with the privileges that it needs; the one that holds '
  'generations; the function that creates sessions, null when it is part of the binding; and, as table: name, the triggers '
  'that are known to let it write. Names of tables and functions are qualified.';
exception when duplicate_function then
  null;  -- the app's own stays
end
$app$;

-- seed/forget

-- A stored answer goes with its generation, where the table is one that was created here.

do $forget$
begin
  if pg_catalog.obj_description('public.generations'::regclass, 'pg_class') like 'Created by ai-retry:%' then
    create or replace trigger ai_retry_forget after delete on public.generations
      referencing old table as gone for each statement execute function ai_retry.app_forget();
  end if;
end
$forget$;

-- seed/create_session

-- The app's own way to create a session from an output. Ours only for a sessions table of ours.

do $session$
begin
  if to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)') is not null then
    return;
  end if;
  if (obj_description('public.sessions'::regclass, 'pg_class') like 'Created by ai-retry%') is not true then
    raise notice 'ai-retry: public.sessions is your own table: create public.ai_retry_create_session(public.generations, jsonb) returns jsonb; retries are refused as NOT_CONFIGURED until then';
    return;
  end if;
  create function public.ai_retry_create_session(p_generation public.generations, p_output jsonb) returns jsonb
  language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $body$
  declare
    v_session public.sessions%rowtype;
  begin
    insert into public.sessions (user_id, content) values (p_generation.user_id, p_output) returning * into v_session;
    return pg_catalog.to_jsonb(v_session);
  end
  $body$;
  comment on function public.ai_retry_create_session(public.generations, jsonb) is
    'Created by ai-retry: creates the session of a generation and returns its row. Replace it to create your own.';
  revoke all on function public.ai_retry_create_session(public.generations, jsonb) from public, anon, authenticated;
  grant execute on function public.ai_retry_create_session(public.generations, jsonb) to service_role;
end
$session$;

-- grants

-- Whatever role created a function of the binding, under whatever default privileges, no end user may execute it.

revoke all on all functions in schema ai_retry from public, anon, authenticated;
grant execute on all functions in schema ai_retry to service_role;

-- seed/rehearsal

-- The rehearsal: what ai-retry writes for a failure and a success, through the binding, rolled back. What refuses it
-- shows now.

do $rehearsal$
declare
  v_user_id uuid;
  v_id uuid;
  v_session_id text;
  v_step text := 'find a generation';
begin
  begin
    select g.user_id, g.id into v_user_id, v_id
      from public.generations g join auth.users u on u.id = g.user_id
      where g.status in ('error', 'timeout')
        and not exists (
          select from public.generations o where o.user_id = g.user_id and o.status in ('queued', 'processing'))
      limit 1;
    if not found then
      select u.id into v_user_id from auth.users u
        where not exists (select from public.generations o where o.user_id = u.id) limit 1;
      if not found then
        insert into auth.users (id) values (gen_random_uuid()) returning id into v_user_id;
      end if;
      insert into public.generations (user_id, status) values (v_user_id, 'error') returning id into v_id;
    end if;
    perform set_config('role', 'service_role', true)  -- with its own grants only
      where pg_has_role('service_role', case when current_setting('server_version_num')::integer < 160000
        then 'member' else 'set' end);
    for v_step in select * from unnest(array['begin', 'fail', 'accept', 'expire', 'begin', 'succeed']) loop
      set constraints all deferred;
      if ai_retry.app_lock(v_id, '5s') is null then
        raise exception 'service_role can''t read the generation: it has to bypass row level security';
      end if;
      if v_step in ('begin', 'accept') then
        perform ai_retry.app_write(
          v_id, case v_step when 'begin' then 'processing' else 'queued' end, null, null, clock_timestamp());
      elsif v_step <> 'succeed' then
        perform ai_retry.app_write(
          v_id, case v_step when 'fail' then 'error' else 'timeout' end, null, 1, clock_timestamp());
        perform ai_retry.app_report(
          v_user_id, v_id, 'ai_generation_failed', 'AI_INVALID_OUTPUT',
          'The AI provider''s answer does not have the form asked for.', 2, clock_timestamp());
      else
        perform ai_retry.app_report(v_user_id, v_id, 'ai_generation_succeeded', null, null, 2, clock_timestamp());
        -- A session function of the app's own may refuse an output that no provider gave.
        if obj_description(to_regprocedure('public.ai_retry_create_session(public.generations,jsonb)'), 'pg_proc')
          like 'Created by ai-retry%'
        then
          v_session_id := ai_retry.app_create_session(v_user_id, v_id, '{}', '{"number": 2}') ->> 'id';
          perform ai_retry.app_write(v_id, 'success', v_session_id, 1, clock_timestamp());
          if ai_retry.app_read(v_id) ->> 'session_id' is distinct from v_session_id then
            raise exception 'a trigger undoes what was written';
          end if;
        end if;
      end if;
      set constraints all immediate;
    end loop;
    raise exception using errcode = 'ARROK';
  exception
    when sqlstate 'ARROK' then
      null;  -- rolled back, as meant
    when others then
      if v_step = 'find a generation' then
        raise notice 'ai-retry: no rehearsal: there is no failed generation yet and none could be inserted (%)', sqlstate;
      else
        raise exception using
          errcode = 'object_not_in_prerequisite_state',
          message = format(
            E'ai-retry can''t be installed yet; nothing was changed:\n  - rehearsing "%s": %s; change what refuses it '
            'so that it allows what ai-retry writes (statuses queued, processing, success, error, timeout; events '
            'ai_generation_succeeded, ai_generation_failed; error types AI_*, SESSION_REJECTED, LEASE_LOST), then apply '
            'again', v_step, sqlerrm);
      end if;
  end;
end
$rehearsal$;

reset lock_timeout;
reset statement_timeout;
