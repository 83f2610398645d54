create function ai_retry.put_back(p_change jsonb)
returns boolean
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation_id constant uuid := p_change ->> 'generation_id';
  v_open public.ai_retry_open%rowtype;
  v_route text;
  v_row jsonb;
  v_now timestamptz;
begin
  perform ai_retry.lock_user((p_change ->> 'user_id')::uuid);
  v_row := ai_retry.app_lock(v_generation_id, '25ms');
  v_now := pg_catalog.clock_timestamp();
  select * into v_open from public.ai_retry_open o
    where o.generation_id = v_generation_id and o.token = (p_change ->> 'token')::uuid
      and o.accepted_at is not null and o.lease_expires_at is not null and o.kept_cause is null;
  if not found then
    return false;
  end if;
  v_route := v_open.route;
  -- Under a new token: a worker that still holds the old one can settle nothing.
  update public.ai_retry_open o
    set token = pg_catalog.gen_random_uuid(), lease_expires_at = null, renewable_until = null,
      provider_outcome = 'not_generated',
      wire_requests = o.wire_requests + (p_change ->> 'wire_requests')::integer,
      route = case when p_change ? 'outage' then o.route end,
      due_at = ai_retry.in_time(
        o, v_now + pg_catalog.make_interval(secs => (p_change ->> 'wait_seconds')::double precision), v_now)
    where o.generation_id = v_generation_id
    returning o.* into v_open;
  if v_row ->> 'status' = 'processing' and (v_row ->> 'user_id')::uuid = v_open.user_id then
    perform ai_retry.app_write(v_generation_id, 'queued', null, null, v_now);
  end if;
  perform ai_retry.move(v_open.message_id, v_open.due_at, v_now);
  if p_change ? 'outage' then
    perform ai_retry.note_outage(v_route, p_change -> 'outage', v_now);
  end if;
  return true;
end
$$;
comment on function ai_retry.put_back(jsonb) is
  'Turns a running accepted attempt back to queued, due after the wait: no attempt is used up, and its token ends.';

create function ai_retry.postpone(p_change jsonb)
returns boolean
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id constant uuid := p_change ->> 'user_id';
  v_message_id constant bigint := p_change ->> 'message_id';
  v_open public.ai_retry_open%rowtype;
  v_until timestamptz;
  v_now timestamptz;
begin
  perform ai_retry.lock_user(v_user_id);
  v_now := pg_catalog.clock_timestamp();
  v_until := v_now + pg_catalog.make_interval(secs => (p_change ->> 'wait_seconds')::double precision);
  select * into v_open from public.ai_retry_open o
    where o.generation_id = (p_change ->> 'generation_id')::uuid and o.user_id = v_user_id and o.message_id = v_message_id;
  if not found then
    perform ai_retry.move(v_message_id, null, v_now);
    return false;
  end if;
  if v_open.lease_expires_at is null then
    update public.ai_retry_open o
      set due_at = ai_retry.in_time(o, greatest(o.due_at, v_until), v_now), route = p_change ->> 'route'
      where o.generation_id = v_open.generation_id
      returning * into v_open;
    v_until := ai_retry.in_time(
      v_open, v_open.due_at + pg_catalog.make_interval(secs => (p_change ->> 'spread_seconds')::double precision), v_now);
  else
    v_until := greatest(v_open.lease_expires_at, v_until);
  end if;
  perform ai_retry.move(v_message_id, v_until, v_now);
  return true;
end
$$;
comment on function ai_retry.postpone(jsonb) is
  'Puts a message back, and its queued attempt with it; a message that belongs to no open attempt is deleted.';
