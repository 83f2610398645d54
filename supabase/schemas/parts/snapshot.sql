create function ai_retry.snapshot(
  p_generation jsonb, p_rule jsonb, p_token uuid, p_at timestamptz, p_is_whole boolean default true
) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_id constant uuid := (p_generation ->> 'id')::uuid;
  v_user_id constant uuid := (p_generation ->> 'user_id')::uuid;
  v_session jsonb := p_generation -> 'session';
  v_attempts jsonb := '[]'::jsonb;
  v_routes jsonb := '[]'::jsonb;
  v_stored_answer jsonb;
  v_mine integer;
  v_standing jsonb;
  v_user record;
  v_each record;
begin
  if p_generation is null then
    return null;
  end if;
  select q.quota_limit, q.window_seconds, r.*, o.*, array(  -- used: units captured in the window
      select s.at
      from (
        (select c.captured_at as at from public.ai_retry_attempts c
          where c.user_id = v_user_id and c.captured_at > p_at - r.span order by c.captured_at desc limit r.most)
        union all
        select w.* from ai_retry.app_own_successes(v_user_id, p_at - r.span, r.most, p_at) w
        where (p_rule -> 'count_own_successes')::boolean
      ) s
      order by s.at desc limit r.most) as spent,
      p_is_whole and exists (select from public.ai_retry_outages) as has_routes,
      p_is_whole and exists (
        select from public.ai_retry_attempts u where u.user_id = v_user_id and u.unreported) as has_unreported
    into v_user
    from (
      select count(*) filter (where o.holds) as held, min(o.lease_expires_at) filter (where o.holds) as held_until,
        count(*) filter (where o.is_live) as live, min(o.lease_expires_at) filter (where o.is_live) as live_until,
        bool_or(o.is_over) as has_over
      from (
        select o.lease_expires_at, o.lease_expires_at > p_at as is_live,
          -- What stays held when everything that is over is closed. An accepted retry keeps its unit.
          o.charge and (o.accepted_at is not null or o.lease_expires_at > p_at) as holds,
          coalesce(o.lease_expires_at, o.expires_at) <= p_at as is_over
        from public.ai_retry_open o where o.user_id = v_user_id
      ) o
    ) o
    left join public.ai_retry_quotas q on q.user_id = v_user_id
    cross join lateral (
      select coalesce(q.quota_limit, (p_rule -> 'limit')::integer) as most, pg_catalog.make_interval(secs => least(
        coalesce(q.window_seconds, (p_rule -> 'window_seconds')::double precision), 315576000)) as span
    ) r;
  for v_each in
    select u.* from ai_retry.attempts u
    where u.generation_id = v_id and (p_is_whole or u.token = p_token) order by u.number
  loop
    v_attempts := v_attempts || v_each.attempt;
    v_mine := case when v_each.token = p_token then v_each.number else v_mine end;
    v_stored_answer := coalesce(  -- no other user's, who had the id before
      case when v_each.user_id = v_user_id then v_each.stored_answer end, v_stored_answer);
    if v_each.session_id <> coalesce(p_generation ->> 'session_id', '') then  -- the app has changed it since
      v_session := ai_retry.app_session(v_each.session_id, v_user_id);
    end if;
  end loop;
  if p_is_whole and v_user.has_routes then
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
        'route', r.route, 'not_before', r.not_before, 'failures', r.failures, 'slots', r.slots,
        'running', (
          select count(*) from public.ai_retry_open o where o.route = r.route and o.lease_expires_at > p_at),
        'waiting', (
          select count(*) from public.ai_retry_open o where o.route = r.route and o.lease_expires_at is null),
        'held_until', case when r.held_until > p_at then r.held_until end
      ) order by r.route), '[]')
      into v_routes
      from (  -- what an operator holds comes first, however many models users invent
        select v.* from ai_retry.outages v order by v.held_until > p_at desc nulls last, v.not_before desc limit 64) r;
  end if;
  v_standing := pg_catalog.jsonb_build_object(
    'live', v_user.live, 'live_until', v_user.live_until, 'routes', v_routes,
    -- The version: everything of one generation that a decision to begin rests on.
    'version', pg_catalog.concat_ws('/', p_generation ->> 'status', coalesce(v_each.number, (not p_generation ? 'exists')::integer),
      v_each.open_until is null, extract(epoch from v_each.next_attempt_at), v_stored_answer ->> 'number',
      v_user.quota_limit::text, v_user.window_seconds::text),
    'quota', pg_catalog.jsonb_build_object(
      'limit', v_user.most, 'window_seconds', extract(epoch from v_user.span),
      'captured', pg_catalog.cardinality(v_user.spent), 'held', v_user.held,
      'resets_at', case
        when v_user.most = 0 then null
        when v_user.held >= v_user.most then v_user.held_until
        else v_user.spent[least(pg_catalog.cardinality(v_user.spent), v_user.most - v_user.held)] + v_user.span end),
    'is_over', v_user.has_unreported or coalesce(v_user.has_over, false) or coalesce(v_each.open_until <= p_at, false));
  if not p_generation ? 'hidden' then  -- a begin has decided already, and compares
    return v_standing;
  end if;
  return v_standing || pg_catalog.jsonb_build_object(
    'as_of', p_at, 'generation', p_generation - '{session,can_create_session,hidden,exists}'::text[],
    'exists', not p_generation ? 'exists',
    'hidden', p_generation -> 'hidden', 'can_create_session', p_generation -> 'can_create_session',
    'session_conflict', case when p_is_whole then ai_retry.app_may_create_session(v_user_id, v_id) end,
    'session', v_session, 'stored_answer', v_stored_answer, 'attempts', v_attempts, 'mine', v_mine,
    'open_token', case when v_each.is_open then v_each.token end,
    'open_is_foreign', coalesce(v_each.is_open and v_each.user_id <> v_user_id, false));
end
$$;
revoke all on function ai_retry.snapshot(jsonb, jsonb, uuid, timestamptz, boolean) from public, anon, authenticated;
grant execute on function ai_retry.snapshot(jsonb, jsonb, uuid, timestamptz, boolean) to service_role;
comment on function ai_retry.snapshot(jsonb, jsonb, uuid, timestamptz, boolean) is
  'What load returns: the generation as the binding read it, its attempts, its owner''s quota, and the time of the reading; '
  'is_over: ai_retry.close_over has something to do. Not whole: what a settle that was applied returns, with no attempt but '
  'the one that was just closed.';
