create view ai_retry.attempts with (security_invoker = true) as
  select c.generation_id, c.number, c.token, c.session_id, false as is_open, pg_catalog.jsonb_build_object(
    'number', c.number, 'started_at', c.started_at, 'lease_expires_at', c.lease_expires_at, 'outcome', c.outcome,
    'closed_at', c.closed_at, 'code', c.code, 'counted', c.counted, 'next_attempt_at', c.next_attempt_at,
    'idempotency_key', c.idempotency_key, 'refused_constraint', c.cause, 'provider_outcome', c.provider_outcome,
    'accepted_at', c.accepted_at, 'expires_at', c.expires_at, 'transient', c.transient,
    'operator_fault', c.operator_fault, 'context_reader', c.context_reader, 'answer_from', c.answer_from) as attempt
  from public.ai_retry_attempts c
  union all
  select o.generation_id, o.number, o.token, null, true, pg_catalog.jsonb_build_object(
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

create function ai_retry.seen(p_generation jsonb, p_rule jsonb, p_at timestamptz)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  return pg_catalog.jsonb_build_object(
    'as_of', p_at, 'generation', p_generation - '{session,can_create_session,hidden}'::text[],
    'hidden', (p_generation -> 'hidden')::boolean,
    'can_create_session', (p_generation -> 'can_create_session')::boolean,
    'quota', ai_retry.quota((p_generation ->> 'user_id')::uuid, p_rule, p_at));
end
$$;
comment on function ai_retry.seen(jsonb, jsonb, timestamptz) is
  'What every snapshot has: the time of the reading, the generation as the binding read it, and its owner''s quota.';

create function ai_retry.snapshot(p_generation jsonb, p_rule jsonb, p_token uuid, p_at timestamptz)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id constant uuid := (p_generation ->> 'id')::uuid;
  v_user_id constant uuid := (p_generation ->> 'user_id')::uuid;
begin
  if p_generation is null then
    return null;
  end if;
  return (
    select ai_retry.seen(p_generation, p_rule, p_at) || pg_catalog.jsonb_build_object(
      'version', ai_retry.version(v_user_id, v_id, p_generation ->> 'status'),
      'session', case when t.session_id <> coalesce(p_generation ->> 'session_id', '')  -- the app has changed it since
        then ai_retry.app_session(t.session_id, v_user_id) else p_generation -> 'session' end,
      'attempts', t.attempts, 'mine', t.mine, 'open_token', t.open_token,
      'open_is_foreign', exists (
        select from public.ai_retry_open o where o.generation_id = v_id and o.user_id <> v_user_id),
      'stored_answer', (
        select s.answer || pg_catalog.jsonb_build_object('number', s.number, 'stored_at', s.stored_at)
        from (
          select a.number, a.answer, a.stored_at
          from public.ai_retry_answers a join public.ai_retry_attempts c using (generation_id, number)
          where a.generation_id = v_id and c.user_id = v_user_id  -- no other user's, who had the id before
          union all
          select o.number, o.answer, o.started_at
          from public.ai_retry_open o where o.generation_id = v_id and o.user_id = v_user_id and o.answer is not null
        ) s
        order by s.number desc limit 1
      ),
      'live', l.live, 'live_until', l.live_until,
      'routes', (
        select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
          'route', r.route, 'not_before', r.not_before, 'failures', r.failures, 'slots', r.slots,
          'running', (
            select count(*) from public.ai_retry_open o where o.route = r.route and o.lease_expires_at > p_at),
          'waiting', (
            select count(*) from public.ai_retry_open o where o.route = r.route and o.lease_expires_at is null)
        ) order by r.route), '[]')
        from (select u.* from ai_retry.outages u order by u.not_before desc limit 64) r
      ))
    from (
      select
        coalesce(pg_catalog.jsonb_agg(u.attempt order by u.number), '[]') as attempts,
        max(u.number) filter (where u.token = p_token) as mine, max(u.session_id) as session_id,
        max(u.token::text) filter (where u.is_open) as open_token
      from ai_retry.attempts u where u.generation_id = v_id
    ) t,
    lateral (
      select count(*) as live, min(o.lease_expires_at) as live_until
      from public.ai_retry_open o where o.user_id = v_user_id and o.lease_expires_at > p_at
    ) l
  );
end
$$;
comment on function ai_retry.snapshot(jsonb, jsonb, uuid, timestamptz) is
  'What load returns: the generation as the binding read it, its attempts, its owner''s quota, and the time of the reading.';

create function ai_retry.settled(p_generation jsonb, p_rule jsonb, p_token uuid, p_at timestamptz)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select ai_retry.seen(p_generation, p_rule, p_at)
      || '{"version": "", "live": 0, "live_until": null, "routes": [], "open_token": null, "open_is_foreign": false, "stored_answer": null}'
      || pg_catalog.jsonb_build_object(
        'session', p_generation -> 'session', 'mine', u.number, 'attempts', pg_catalog.jsonb_build_array(u.attempt))
    from ai_retry.attempts u where u.generation_id = (p_generation ->> 'id')::uuid and u.token = p_token
  );
end
$$;
comment on function ai_retry.settled(jsonb, jsonb, uuid, timestamptz) is
  'What a settle that was applied returns: a snapshot with no attempt but the one that was just closed.';
