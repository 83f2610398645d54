create function ai_retry.last_error(p_generation_id uuid)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_error jsonb;
begin
  select pg_catalog.jsonb_build_object(
      'code', coalesce(a.code, 'UNKNOWN'), 'reason', a.reason, 'at', a.closed_at, 'ours', true)
    into v_error
    from public.ai_retry_attempts a
    where a.generation_id = p_generation_id and a.outcome in ('failed', 'abandoned')
    order by a.number desc limit 1;
  if not found then
    v_error := ai_retry.app_last_error(p_generation_id);
    v_error := pg_catalog.jsonb_build_object(
      'code', coalesce(v_error ->> 'code', 'UNKNOWN'), 'reason', null, 'at', v_error -> 'at', 'ours', false)
      where v_error is not null;
  end if;
  return v_error;
end
$$;
comment on function ai_retry.last_error(uuid) is
  'The last error of a generation: of our last attempt that has one, else the app''s last one, without its message.';

create function ai_retry.found(p_generation_id uuid, p_error jsonb, p_rule jsonb)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation constant jsonb := ai_retry.app_read(p_generation_id);
begin
  if v_generation is null then
    return null;
  end if;
  return pg_catalog.jsonb_build_object(
    'failed_at', coalesce(v_generation ->> 'updated_at', v_generation ->> 'created_at'), 'error', p_error,
    'snapshot', ai_retry.snapshot(v_generation, p_rule, null, pg_catalog.clock_timestamp()));
end
$$;
comment on function ai_retry.found(uuid, jsonb, jsonb) is
  'A generation as a search returns it: when it failed, its last error, and the snapshot that a decision needs.';
