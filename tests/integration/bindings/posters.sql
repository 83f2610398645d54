-- The binding of ai-retry: the only SQL of ai-retry that names the app's tables. It belongs to the app; ai-retry never
-- replaces it. Written by `ai-retry init`; edit it, or run init again, which writes a new one.
--
-- Each function says in its comment what it must do. Statuses are ai-retry's words: queued, processing, success, error,
-- timeout. Functions that write run the app's triggers, so that their search_path has the app's schemas.
--
--   generations   studio.posters
--   sessions      the generation itself, in which a success keeps its output
--   error logs    none
--   events        none
--   status        queued     is waiting; written: waiting
--                 processing is rendering; written: rendering
--                 success    is ready; written: ready
--                 error      is broken; written: broken
--                 timeout    is -; written: broken

set lock_timeout = '5s';
set statement_timeout = '60s';

create schema if not exists ai_retry;
revoke all on schema ai_retry from public, anon, authenticated;
grant usage on schema ai_retry to service_role;
grant usage on schema studio to service_role;
grant select, update on table studio.posters to service_role;

create or replace function ai_retry.app_status(p_word text)
returns text
language sql immutable security invoker
set search_path = pg_catalog, pg_temp
return
  case
    when p_word in ('waiting') then 'queued'
    when p_word in ('rendering') then 'processing'
    when p_word in ('ready') then 'success'
    when p_word in ('broken') then 'error'
    else p_word
  end;
comment on function ai_retry.app_status(text) is
  'Turns the app''s word for a status into ai-retry''s. A word that is not bound stays as it is: retries are refused.';

create or replace function ai_retry.app_word(p_status text)
returns text
language sql immutable security invoker
set search_path = pg_catalog, pg_temp
return
  case p_status
    when 'queued' then 'waiting'
    when 'processing' then 'rendering'
    when 'success' then 'ready'
    when 'error' then 'broken'
    when 'timeout' then 'broken'
  end;
comment on function ai_retry.app_word(text) is
  'Turns ai-retry''s status into the app''s word that is written for it; null: it is not written.';

create or replace function ai_retry.app_read(p_generation_id uuid)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select pg_catalog.jsonb_build_object(
      'id', g.id, 'user_id', g.artist,
      'status', ai_retry.app_status(g.state::text),
      'hidden', false,
      'model', null,
      'prompt_data', g.brief,
      'duration_ms', null,
      'created_at', g.created_at,
      'updated_at', g.changed_at,
      'session_id', case when g.state in ('ready') then g.id end,
      'session', case when g.state in ('ready') then pg_catalog.jsonb_build_object('id', g.id, 'picture', g.picture) end,
      'can_create_session', true)
    from studio.posters g
    where g.id = p_generation_id
  );
end
$$;
comment on function ai_retry.app_read(uuid) is
  'Returns a generation of any user in ai-retry''s words, with its session and whether sessions can be created; null only when the row is absent.';

create or replace function ai_retry.app_session(p_session_id text, p_user_id uuid)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select case when g.state in ('ready') then pg_catalog.jsonb_build_object('id', g.id, 'picture', g.picture) end
    from studio.posters g
    where g.id = p_session_id::uuid and g.artist = p_user_id
  );
end
$$;
comment on function ai_retry.app_session(text, uuid) is
  'Returns a session, for a success of ours whose generation no longer points at it; null when it is absent, or another user''s.';

create or replace function ai_retry.app_lock(p_generation_id uuid, p_timeout text)
returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_row jsonb;
begin
  perform pg_catalog.set_config('lock_timeout', p_timeout, true);
  select pg_catalog.jsonb_build_object(
      'user_id', g.artist,
      'status', ai_retry.app_status(g.state::text),
      'hidden', false)
    into v_row
    from studio.posters g where g.id = p_generation_id for no key update of g;
  return v_row;
end
$$;
comment on function ai_retry.app_lock(uuid, text) is
  'Locks the generation''s row, waiting no longer than the timeout (the app may wait for us), and returns owner, status and hidden; null when it is absent.';

create or replace function ai_retry.app_write(
  p_generation_id uuid, p_status text, p_session_id text, p_duration_ms integer, p_at timestamptz
)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, studio, public, extensions, pg_temp
as $$
declare
  v_word constant text := ai_retry.app_word(p_status);
  v_answer constant jsonb := nullif(pg_catalog.current_setting('ai_retry.answer', true), '');
begin
  if p_status = 'success' then
    update studio.posters g
      set state = v_word::studio.state, changed_at = p_at, picture = v_answer -> 'output' ->> 'url'
      where g.id = p_generation_id;
  else
    update studio.posters g
      set state = v_word::studio.state, changed_at = p_at
      where g.id = p_generation_id and v_word is not null and g.state::text is distinct from v_word;
  end if;
end
$$;
comment on function ai_retry.app_write(uuid, text, text, integer, timestamptz) is
  'Writes what the generation says: its status, and, where given, its session and the duration of the call.';

create or replace function ai_retry.app_create_session(
  p_user_id uuid, p_generation_id uuid, p_output jsonb, p_attempt jsonb
)
returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, studio, public, extensions, pg_temp
as $$
begin
  perform pg_catalog.set_config(  -- app_write puts it into the row, with the status
    'ai_retry.answer', pg_catalog.jsonb_build_object('output', p_output, 'attempt', p_attempt)::text, true);
  return pg_catalog.jsonb_build_object('id', p_generation_id);
end
$$;
comment on function ai_retry.app_create_session(uuid, uuid, jsonb, jsonb) is
  'Creates the session from the output, and returns its row with an id. p_attempt: number, model, usage.';

create or replace function ai_retry.app_may_create_session(p_user_id uuid, p_generation_id uuid)
returns text
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  return null;
end
$$;
comment on function ai_retry.app_may_create_session(uuid, uuid) is
  'Asked before any call: null where a session could be created now, as far as is known; else why it could not, in words '
  'for its user, who can cure it, such as: You have a planned session already.';

create or replace function ai_retry.app_create_generation(p_user_id uuid, p_generation_id uuid, p_request jsonb)
returns boolean
language plpgsql volatile security invoker
set search_path = pg_catalog, studio, public, extensions, pg_temp
as $$
begin
  insert into studio.posters (
    id, artist, state, brief
  ) values (
    p_generation_id,
    p_user_id,
    'rendering'::studio.state,
    p_request -> 'prompt_data'
  ) on conflict (id) do nothing;
  return found;
end
$$;
comment on function ai_retry.app_create_generation(uuid, uuid, jsonb) is
  'Inserts a generation for its first call, as the app itself does: p_request has prompt_data, model and whatever column '
  'has to be given. Returns false, and changes nothing, where the id is there already. The role needs insert.';

create or replace function ai_retry.app_report(
  p_user_id uuid, p_generation_id uuid, p_event text, p_code text, p_message text, p_attempt integer, p_at timestamptz
)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, studio, public, extensions, pg_temp
as $$
begin
  null;  -- the app logs neither errors nor events
end
$$;
comment on function ai_retry.app_report(uuid, uuid, text, text, text, integer, timestamptz) is
  'Writes an event, and, for a failure, an error log. Where it fails, the attempt is closed all the same.';

create or replace function ai_retry.app_own_successes(
  p_user_id uuid, p_since timestamptz, p_limit integer, p_at timestamptz
)
returns setof timestamptz
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select least(g.created_at, p_at)  -- the app's instants may be any, also infinite
    from studio.posters g
    where g.artist = p_user_id and g.created_at > p_since and g.state in ('ready')
      and (  -- a subquery for each row: they are few, and a join would read everybody's attempts
        select c.number from public.ai_retry_attempts c where c.generation_id = g.id and c.outcome = 'succeeded'
      ) is null
    order by g.created_at desc
    limit p_limit;
end
$$;
comment on function ai_retry.app_own_successes(uuid, timestamptz, integer, timestamptz) is
  'Returns when the user''s newest successes were created that no attempt of ai-retry made.';

create or replace function ai_retry.app_strangers(p_generation_ids uuid[], p_user_id uuid)
returns setof uuid
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select i.id from pg_catalog.unnest(p_generation_ids) i (id)
    where not exists (
      select from studio.posters g where g.id = i.id and g.artist = p_user_id);
end
$$;
comment on function ai_retry.app_strangers(uuid[], uuid) is
  'Returns those of the ids that are no generation of this user: absent, or another user''s.';

create or replace function ai_retry.app_look_up(p_generation_ids uuid[])
returns table (id uuid, model text)
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  return query
    select g.id, null::text
    from studio.posters g where g.id = any (p_generation_ids);
end
$$;
comment on function ai_retry.app_look_up(uuid[]) is
  'Returns those of the generations that are there, each with its model.';

create or replace function ai_retry.app_not_succeeded(p_generation_ids uuid[])
returns setof uuid
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_custom_plan'
as $$
begin
  return query
    select g.id from studio.posters g
    where (p_generation_ids is null or g.id = any (p_generation_ids))
      and ai_retry.app_status(g.state::text) is distinct from 'success';
end
$$;
comment on function ai_retry.app_not_succeeded(uuid[]) is
  'Returns those of the generations that are there and do not say success; null asks about all.';

create or replace function ai_retry.app_find(
  p_since timestamptz, p_before_at timestamptz, p_before_id uuid, p_user_id uuid, p_limit integer
)
returns table (id uuid, status text, model text, created_at timestamptz)
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_custom_plan'
as $$
#variable_conflict use_column
begin
  return query
    select g.id, ai_retry.app_status(g.state::text), null::text, g.created_at
    from studio.posters g
    where (g.created_at, g.id) < (p_before_at, p_before_id)
      and g.created_at >= coalesce(p_since, '-infinity'::timestamptz)
      and (p_user_id is null or g.artist = p_user_id)
    order by g.created_at desc, g.id desc
    limit p_limit;
end
$$;
comment on function ai_retry.app_find(timestamptz, timestamptz, uuid, uuid, integer) is
  'Lists generations of whatever status, but hidden ones, that were created before an instant and id, the newest first; of '
  'one user, unless that is null. Unless p_since is given, those without an instant follow, by id; p_before_at is null '
  'among them. An index of the instant and the id keeps it fast.';

create or replace function ai_retry.app_last_error(p_generation_id uuid)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  return null;  -- the app logs no codes
end
$$;
comment on function ai_retry.app_last_error(uuid) is
  'Returns the code of the generation''s last error that the app has logged, and when; never its message, in which a prompt '
  'may be. Null when there is no error.';

create or replace function ai_retry.app_report_recovery(
  p_user_id uuid, p_run_id uuid, p_plan_id text, p_retried integer, p_succeeded integer, p_at timestamptz
)
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, studio, public, extensions, pg_temp
as $$
begin
  null;  -- the app logs no events
end
$$;
comment on function ai_retry.app_report_recovery(uuid, uuid, text, integer, integer, timestamptz) is
  'Writes an event of what a recovery did for one user: users may read their events, so that it names no operator. Where it '
  'fails, the recovery is recorded all the same.';

create or replace function ai_retry.app_forget()
returns trigger
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp set lock_timeout = '25ms'
as $$
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

create or replace function ai_retry.app_describe()
returns jsonb
language plpgsql immutable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  return '{
      "version": 1,
      "tables": {
        "studio.posters": ["select", "update"]
      },
      "generations": "studio.posters",
      "session_function": null,
      "status": {"column": "state", "words": {"queued": ["waiting"], "processing": ["rendering"], "success": ["ready"], "error": ["broken"], "timeout": []}},
      "triggers": ["studio.posters: touch"]
    }'::jsonb;
end
$$;
comment on function ai_retry.app_describe() is
  'Names, for ai-retry doctor, the tables that this binding uses, with the privileges that it needs; the one that holds '
  'generations; the function that creates sessions, null when it is part of the binding; the words that are bound; and the '
  'triggers that were there. Names are qualified.';

revoke all on all functions in schema ai_retry from public, anon, authenticated;
grant execute on all functions in schema ai_retry to service_role;

reset lock_timeout;
reset statement_timeout;
