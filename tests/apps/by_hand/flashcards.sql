-- A binding written by hand: a request is done when it has a deck.

create function ai_retry.app_read(p_generation_id uuid) returns jsonb language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select jsonb_build_object(
      'id', r.id, 'user_id', r.owner_id, 'status', case when r.deck_id is null then 'error' else 'success' end,
      'hidden', false, 'model', r.model,
      'prompt_data', jsonb_build_object('notes', r.notes, 'language', r.language, 'wanted', r.wanted),
      'session_id', r.deck_id, 'duration_ms', r.took_ms, 'created_at', r.created_at, 'updated_at', null,
      'session', (select to_jsonb(d) from public.decks d where d.id = r.deck_id and d.owner_id = r.owner_id),
      'can_create_session', true)
    from public.card_requests r where r.id = p_generation_id);
end $$;
create function ai_retry.app_session(p_session_id text, p_user_id uuid) returns jsonb language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  return (select to_jsonb(d) from public.decks d where d.id = p_session_id::uuid and d.owner_id = p_user_id);
end $$;
create function ai_retry.app_lock(p_generation_id uuid, p_timeout text) returns jsonb language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  v_row jsonb;
begin
  perform set_config('lock_timeout', p_timeout, true);
  select jsonb_build_object(
    'user_id', r.owner_id, 'status', case when r.deck_id is null then 'error' else 'success' end, 'hidden', false)
    into v_row from public.card_requests r where r.id = p_generation_id for no key update;
  return v_row;
end $$;
create function ai_retry.app_write(
  p_generation_id uuid, p_status text, p_session_id text, p_duration_ms integer, p_at timestamptz
) returns void language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if p_session_id is not null then
    update public.card_requests r set deck_id = p_session_id::uuid, took_ms = p_duration_ms
      where r.id = p_generation_id;
  end if;
end $$;
create function ai_retry.app_create_session(p_user_id uuid, p_generation_id uuid, p_output jsonb, p_attempt jsonb)
returns jsonb language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  return public.make_deck(p_user_id, p_generation_id, p_output, p_attempt);
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
    select least(r.created_at, p_at) from public.card_requests r
    where r.owner_id = p_user_id and r.created_at > p_since and r.deck_id is not null and not exists (
      select from public.ai_retry_attempts c where c.generation_id = r.id and c.outcome = 'succeeded')
    order by r.created_at desc limit p_limit;
end $$;
create function ai_retry.app_strangers(p_generation_ids uuid[], p_user_id uuid) returns setof uuid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query select i.id from unnest(p_generation_ids) i (id)
    where not exists (select from public.card_requests r where r.id = i.id and r.owner_id = p_user_id);
end $$;
create function ai_retry.app_look_up(p_generation_ids uuid[]) returns table (id uuid, model text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query select r.id, r.model::text from public.card_requests r where r.id = any (p_generation_ids);
end $$;
create function ai_retry.app_not_succeeded(p_generation_ids uuid[]) returns setof uuid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query select r.id from public.card_requests r
    where (p_generation_ids is null or r.id = any (p_generation_ids)) and r.deck_id is null;
end $$;
create function ai_retry.app_find(
  p_since timestamptz, p_before_at timestamptz, p_before_id uuid, p_user_id uuid, p_limit integer
) returns table (id uuid, status text, model text, created_at timestamptz) language plpgsql stable
set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select r.id, case when r.deck_id is null then 'error' else 'success' end, r.model::text, r.created_at
    from public.card_requests r
    where (r.created_at, r.id) < (p_before_at, p_before_id) and r.created_at >= coalesce(p_since, '-infinity')
      and (p_user_id is null or r.owner_id = p_user_id)
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
  select '{"version": 1, "generations": "public.card_requests", "session_function": null, "tables": {
    "public.card_requests": ["select", "update"], "public.decks": ["select"]}}'::jsonb
$$;

grant select, update on public.card_requests to service_role;
grant select on public.decks to service_role;
grant execute on function public.make_deck(uuid, uuid, jsonb, jsonb) to service_role;
revoke all on all functions in schema ai_retry from public, anon, authenticated;
grant execute on all functions in schema ai_retry to service_role;
