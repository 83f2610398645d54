create view ai_retry.attempts with (security_invoker = true) as
  select c.generation_id, c.user_id, c.number, c.token, c.session_id, false as is_open, pg_catalog.jsonb_build_object(
    'number', c.number, 'started_at', c.started_at, 'lease_expires_at', c.lease_expires_at, 'outcome', c.outcome,
    'closed_at', c.closed_at, 'code', c.code, 'counted', c.counted, 'next_attempt_at', c.next_attempt_at,
    'idempotency_key', c.idempotency_key, 'refused_constraint', c.cause, 'provider_outcome', c.provider_outcome,
    'accepted_at', c.accepted_at, 'expires_at', c.expires_at, 'transient', c.transient,
    'operator_fault', c.operator_fault, 'context_reader', c.context_reader, 'answer_from', c.answer_from) as attempt
  from public.ai_retry_attempts c
  union all
  select o.generation_id, o.user_id, o.number, o.token, null, true, pg_catalog.jsonb_build_object(
    'number', o.number, 'started_at', o.started_at, 'lease_expires_at', o.lease_expires_at, 'outcome', null,
    'closed_at', null, 'code', null, 'counted', o.counted, 'next_attempt_at', coalesce(
      o.lease_expires_at + pg_catalog.make_interval(secs => o.abandoned_wait_seconds), o.due_at),
    'idempotency_key', o.idempotency_key, 'refused_constraint', null, 'provider_outcome', o.provider_outcome,
    'accepted_at', o.accepted_at, 'expires_at', o.expires_at, 'transient', null, 'operator_fault', false,
    'context_reader', o.context_reader, 'answer_from', o.answer_from)
  from public.ai_retry_open o;
revoke all on table ai_retry.attempts from public, anon, authenticated;
grant select on table ai_retry.attempts to service_role;
comment on view ai_retry.attempts is 'ai-retry: attempts, closed and open, as decisions see them.';

create function ai_retry.snapshot(
  p_generation jsonb, p_rule jsonb, p_token uuid, p_at timestamptz, p_is_whole boolean default true
)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id constant uuid := p_generation ->> 'id';
  v_user_id constant uuid := p_generation ->> 'user_id';
  v_session jsonb := p_generation -> 'session';
  v_attempts jsonb := '[]';
  v_routes jsonb := '[]';
  v_mine integer;
  v_open_token uuid;
  v_open_is_foreign boolean := false;
  v_each record;
  v_stands record;
begin
  if p_generation is null then
    return null;
  end if;
  v_stands := ai_retry.standing(
    v_user_id, case when p_is_whole then v_id end, p_generation ->> 'status', p_rule, p_at);
  for v_each in
    select u.user_id, u.number, u.token, u.session_id, u.is_open, u.attempt
    from ai_retry.attempts u where u.generation_id = v_id and (p_is_whole or u.token = p_token)
    order by u.number
  loop
    v_attempts := v_attempts || v_each.attempt;
    if v_each.token = p_token then
      v_mine := v_each.number;
    end if;
    if v_each.is_open then
      v_open_token := v_each.token;
      v_open_is_foreign := v_each.user_id <> v_user_id;
    elsif v_each.session_id <> coalesce(p_generation ->> 'session_id', '') then  -- the app has changed it since
      v_session := ai_retry.app_session(v_each.session_id, v_user_id);
    end if;
  end loop;
  if p_is_whole and exists (select from public.ai_retry_outages) then
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
        'route', r.route, 'not_before', r.not_before, 'failures', r.failures, 'slots', r.slots,
        'running', (
          select count(*) from public.ai_retry_open o where o.route = r.route and o.lease_expires_at > p_at),
        'waiting', (
          select count(*) from public.ai_retry_open o where o.route = r.route and o.lease_expires_at is null)
      ) order by r.route), '[]')
      into v_routes
      from (select v.* from ai_retry.outages v order by v.not_before desc limit 64) r;
  end if;
  return pg_catalog.jsonb_build_object(
    'as_of', p_at, 'generation', p_generation - '{session,can_create_session,hidden}'::text[],
    'hidden', p_generation -> 'hidden', 'can_create_session', p_generation -> 'can_create_session',
    'session_conflict', case when p_is_whole then ai_retry.app_may_create_session(v_user_id, v_id) end,
    'session', v_session, 'version', v_stands.version, 'quota', v_stands.quota,
    'stored_answer', v_stands.stored_answer, 'live', v_stands.live, 'live_until', v_stands.live_until,
    'attempts', v_attempts, 'mine', v_mine, 'open_token', v_open_token,
    'open_is_foreign', v_open_is_foreign, 'routes', v_routes);
end
$$;
comment on function ai_retry.snapshot(jsonb, jsonb, uuid, timestamptz, boolean) is
  'What load returns: the generation as the binding read it, its attempts, its owner''s quota, and the time of the reading. '
  'Not whole: what a settle that was applied returns, with no attempt but the one that was just closed.';
