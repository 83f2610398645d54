-- A binding written by hand: each word of the app's is one of ai-retry's, and the first of several is written.

create function ai_retry.app_word(p_status text) returns text language sql immutable
set search_path = pg_catalog, pg_temp as $$
  select case p_status when 'pending' then 'queued' when 'running' then 'processing' when 'generating' then 'processing'
    when 'done' then 'success' when 'finished' then 'success' when 'failed' then 'error' when 'expired' then 'timeout' end
$$;
create function ai_retry.app_read(p_generation_id uuid) returns jsonb language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select jsonb_build_object(
      'id', r.id, 'user_id', r.user_id, 'status', ai_retry.app_word(r.status),
      'hidden', false, 'model', r.model,
      'prompt_data', r.input,
      'session_id', r.song_id, 'duration_ms', r.elapsed, 'created_at', r.created_at, 'updated_at', r.updated_at,
      'session', (select to_jsonb(d) from public.songs d where d.id = r.song_id and d.user_id = r.user_id),
      'can_create_session', true)
    from public.song_jobs r where r.id = p_generation_id);
end $$;
create function ai_retry.app_session(p_session_id text, p_user_id uuid) returns jsonb language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  return (select to_jsonb(d) from public.songs d where d.id = p_session_id::uuid and d.user_id = p_user_id);
end $$;
create function ai_retry.app_lock(p_generation_id uuid, p_timeout text) returns jsonb language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  v_row jsonb;
begin
  perform set_config('lock_timeout', p_timeout, true);
  select jsonb_build_object(
    'user_id', r.user_id, 'status', ai_retry.app_word(r.status), 'hidden', false)
    into v_row from public.song_jobs r where r.id = p_generation_id for no key update;
  return v_row;
end $$;
create function ai_retry.app_write(
  p_generation_id uuid, p_status text, p_session_id text, p_duration_ms integer, p_at timestamptz
) returns void language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  update public.song_jobs r
    set status = case p_status when 'queued' then 'pending' when 'processing' then 'running' when 'success' then 'done'
        when 'timeout' then 'expired' else 'failed' end,
      song_id = coalesce(p_session_id::uuid, r.song_id), elapsed = coalesce(p_duration_ms, r.elapsed), updated_at = p_at
    where r.id = p_generation_id;
end $$;
create function ai_retry.app_create_session(p_user_id uuid, p_generation_id uuid, p_output jsonb, p_attempt jsonb)
returns jsonb language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  v_row jsonb;
begin
  insert into public.songs as s (user_id, lyrics, tempo)
    values (p_user_id, p_output ->> 'lyrics', (p_output ->> 'tempo')::integer) returning to_jsonb(s) into v_row;
  return v_row;
end $$;
create function ai_retry.app_may_create_session(p_user_id uuid, p_generation_id uuid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return null;
end $$;
create function ai_retry.app_report(
  p_user_id uuid, p_generation_id uuid, p_event text, p_code text, p_message text, p_attempt integer, p_at timestamptz
) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
end $$;
create function ai_retry.app_own_successes(p_user_id uuid, p_since timestamptz, p_limit integer, p_at timestamptz)
returns setof timestamptz language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select least(r.created_at, p_at) from public.song_jobs r
    where r.user_id = p_user_id and r.created_at > p_since and r.status in ('done', 'finished') and not exists (
      select from public.ai_retry_attempts c where c.generation_id = r.id and c.outcome = 'succeeded')
    order by r.created_at desc limit p_limit;
end $$;
create function ai_retry.app_strangers(p_generation_ids uuid[], p_user_id uuid) returns setof uuid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query select i.id from unnest(p_generation_ids) i (id)
    where not exists (select from public.song_jobs r where r.id = i.id and r.user_id = p_user_id);
end $$;
create function ai_retry.app_look_up(p_generation_ids uuid[]) returns table (id uuid, model text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query select r.id, r.model::text from public.song_jobs r where r.id = any (p_generation_ids);
end $$;
create function ai_retry.app_not_succeeded(p_generation_ids uuid[]) returns setof uuid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query select r.id from public.song_jobs r
    where (p_generation_ids is null or r.id = any (p_generation_ids)) and ai_retry.app_word(r.status) is distinct from 'success';
end $$;
create function ai_retry.app_find(
  p_since timestamptz, p_before_at timestamptz, p_before_id uuid, p_user_id uuid, p_limit integer
) returns table (id uuid, status text, model text, created_at timestamptz) language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select r.id, ai_retry.app_word(r.status), r.model::text, r.created_at
    from public.song_jobs r
    where (r.created_at, r.id) < (p_before_at, p_before_id) and r.created_at >= coalesce(p_since, '-infinity')
      and (p_user_id is null or r.user_id = p_user_id)
    order by r.created_at desc, r.id desc limit p_limit;
end $$;
create function ai_retry.app_last_error(p_generation_id uuid) returns jsonb language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  return null;
end $$;
create function ai_retry.app_report_recovery(
  p_user_id uuid, p_run_id uuid, p_plan_id text, p_retried integer, p_succeeded integer, p_at timestamptz
) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
end $$;
create function ai_retry.app_forget() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  return null;
end $$;
create function ai_retry.app_describe() returns jsonb language sql immutable set search_path = pg_catalog, pg_temp as $$
  select '{"version": 1, "generations": "public.song_jobs", "session_function": null, "tables": {
    "public.song_jobs": ["select", "update"], "public.songs": ["select", "insert"]}}'::jsonb
$$;

grant select, update on public.song_jobs to service_role;
grant select, insert on public.songs to service_role;
revoke all on all functions in schema ai_retry from public, anon, authenticated;
grant execute on all functions in schema ai_retry to service_role;
