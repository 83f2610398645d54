create function ai_retry.close_over(p_user_id uuid, p_begun_id uuid, p_at timestamptz) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_open public.ai_retry_open%rowtype;
  v_closed record;
  v_row jsonb;
  v_is_owned boolean;
  v_is_failure boolean;
  v_end jsonb;
  v_ends jsonb := '[]'::jsonb;
begin
  for v_open in
    select o.* from public.ai_retry_open o
    where (o.user_id = p_user_id or o.generation_id = p_begun_id) and o.lease_expires_at <= p_at
    order by o.lease_expires_at
  loop
    v_end := case when v_open.kept_cause is null
      then '{"outcome": "abandoned", "code": "LEASE_LOST", "status": "timeout", "goes_on": true, "unreported": true}'
      else '{"outcome": "failed", "code": "SESSION_REJECTED", "goes_on": true, "unreported": true}'::jsonb
        || pg_catalog.jsonb_build_object('cause', v_open.kept_cause) end;
    if ai_retry.close(v_open.generation_id, v_open.token, v_end, null, p_at) then
      v_ends := v_ends || ai_retry.closed(v_open, v_end);
    end if;
  end loop;
  for v_closed in
    select c.*, case when c.cause is null then 'timeout' else 'error' end as status, (
      select o.lease_expires_at is null from public.ai_retry_open o where o.generation_id = c.generation_id) as is_queued
    from public.ai_retry_attempts c where (c.user_id = p_user_id or c.generation_id = p_begun_id) and c.unreported
  loop
    begin
      v_row := ai_retry.app_lock(v_closed.generation_id, '5ms');
      if v_row ->> 'status' = 'processing' then  -- what the app has decided meanwhile stays
        perform ai_retry.report(
          v_closed.user_id, v_closed.generation_id,
          case v_closed.is_queued when true then 'queued' when false then null else v_closed.status end, null,
          v_closed.code, case
            when (v_row ->> 'user_id')::uuid is distinct from v_closed.user_id then null
            when v_closed.cause is not null then 'The result was rejected; its answer is stored.'
            else 'The attempt was not finished in time.' end,
          v_closed.number, p_at);
      end if;
      update public.ai_retry_attempts c set unreported = false
        where c.generation_id = v_closed.generation_id and c.number = v_closed.number;
    exception when lock_not_available then
      null;  -- the app holds the row, or the table of its events: the report waits for a later begin
    end;
  end loop;
  for v_open in
    select o.* from public.ai_retry_open o
    where o.user_id = p_user_id and o.lease_expires_at is null
      and (o.expires_at <= p_at or p_begun_id is null and o.generation_id in (
        select s.* from ai_retry.app_strangers(
          (select pg_catalog.array_agg(q.generation_id) from public.ai_retry_open q
            where q.user_id = p_user_id and q.lease_expires_at is null), p_user_id) s))
    order by o.expires_at
  loop
    begin
      v_row := ai_retry.app_lock(v_open.generation_id, '5ms');
      v_is_owned := coalesce((v_row ->> 'user_id')::uuid = v_open.user_id, false);
      v_is_failure := v_is_owned and v_row ->> 'status' <> 'success';
      if v_is_failure or v_row ->> 'status' in ('queued', 'processing') then
        perform ai_retry.report(
          v_open.user_id, v_open.generation_id, v_open.status_before, null, 'RETRY_EXPIRED',
          case when v_is_failure then 'The accepted retry was not finished in time.' end, v_open.number, p_at);
      end if;
      v_end := case when v_is_owned then '{"outcome": "failed", "code": "RETRY_EXPIRED", "counted": false}'::jsonb
        else '{"outcome": "cancelled", "counted": false}'::jsonb end;
      if ai_retry.close(v_open.generation_id, v_open.token, v_end, null, p_at) then
        v_ends := v_ends || ai_retry.closed(v_open, v_end);
      end if;
    exception when lock_not_available then
      null;  -- the app holds the row: a later begin ends it
    end;
  end loop;
  return v_ends;
end
$$;
revoke all on function ai_retry.close_over(uuid, uuid, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.close_over(uuid, uuid, timestamptz) to service_role;
comment on function ai_retry.close_over(uuid, uuid, timestamptz) is
  'Closes every attempt of the user that is over, and one of the generation to be begun, even another user''s; informs '
  'the app; ends accepted retries that are out of time. Where none is begun, queued attempts whose generation is gone, or '
  'another user''s, are cancelled, too. Returns what it closed.';
