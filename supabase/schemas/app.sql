-- The binding: the only SQL of ai-retry that names the app's tables. It belongs to the app; ai-retry never replaces it.
-- This is the default, for the tables generations, sessions, generation_error_logs and events.
--
-- Each function says what it must do. Statuses are ai-retry's words: queued, processing, success, error, timeout; a
-- binding translates the app's own. Functions that write run the app's triggers, so that their search_path has public.

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

create function ai_retry.app_create_session(p_user_id uuid, p_generation_id uuid, p_output jsonb, p_attempt jsonb)
returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, public, extensions, pg_temp as $$
begin
  return (select public.ai_retry_create_session(g, p_output) from public.generations g where g.id = p_generation_id);
end
$$;
comment on function ai_retry.app_create_session(uuid, uuid, jsonb, jsonb) is
  'Creates the session from the output, and returns its row with an id. p_attempt: number, model, usage.';

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

create function ai_retry.app_may_create_session(p_user_id uuid, p_generation_id uuid) returns text
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return null;
end
$$;
comment on function ai_retry.app_may_create_session(uuid, uuid) is
  'Asked before any call: null where a session could be created now, as far as is known; else why it could not, in words '
  'for its user, who can cure it, such as: You have a planned session already.';

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

create function ai_retry.app_strangers(p_generation_ids uuid[], p_user_id uuid) returns setof uuid
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return query select i.id from pg_catalog.unnest(p_generation_ids) i (id)
    where not exists (select from public.generations g where g.id = i.id and g.user_id = p_user_id);
end
$$;
comment on function ai_retry.app_strangers(uuid[], uuid) is
  'Returns those of the ids that are no generation of this user: absent, or another user''s.';

create function ai_retry.app_look_up(p_generation_ids uuid[]) returns table (id uuid, model text)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return query select g.id, g.model::text from public.generations g where g.id = any (p_generation_ids);
end
$$;
comment on function ai_retry.app_look_up(uuid[]) is
  'Returns those of the generations that are there, each with its model.';

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
