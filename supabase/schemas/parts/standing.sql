create function ai_retry.standing(
  p_user_id uuid, p_generation_id uuid, p_status text, p_rule jsonb, p_at timestamptz,
  out version text, out stored_answer jsonb, out quota jsonb, out live integer, out live_until timestamptz,
  out is_over boolean
)
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_counts_own constant boolean := p_rule -> 'count_own_successes';
  v_override record;
  v_last record;
  v_open record;
  v_limit integer;
  v_seconds double precision;
  v_window interval;
  v_spent timestamptz[];
  v_captured integer;
  v_answer_number integer;
begin
  select q.quota_limit, q.window_seconds into v_override from public.ai_retry_quotas q where q.user_id = p_user_id;
  v_limit := coalesce(v_override.quota_limit, (p_rule ->> 'limit')::integer);
  v_seconds := least(coalesce(v_override.window_seconds, (p_rule ->> 'window_seconds')::double precision), 315576000);
  v_window := pg_catalog.make_interval(secs => v_seconds);
  v_spent := array(
    select s.at
    from (
      (select c.captured_at as at from public.ai_retry_attempts c
        where c.user_id = p_user_id and c.captured_at > p_at - v_window order by c.captured_at desc limit v_limit)
      union all
      select o.* from ai_retry.app_own_successes(p_user_id, p_at - v_window, v_limit, p_at) o where v_counts_own
    ) s
    order by s.at desc limit v_limit);
  v_captured := pg_catalog.cardinality(v_spent);
  -- Held: what stays held when everything that is over is closed. An accepted retry keeps its unit.
  select count(*) filter (where o.holds) as held, min(o.lease_expires_at) filter (where o.holds) as held_until,
      count(*) filter (where o.is_live) as live, min(o.lease_expires_at) filter (where o.is_live) as live_until,
      bool_or(coalesce(o.lease_expires_at, o.expires_at) <= p_at) as is_over
    into v_open
    from (
      select o.lease_expires_at, o.expires_at, o.lease_expires_at > p_at as is_live,
        o.charge and (o.accepted_at is not null or o.lease_expires_at > p_at) as holds
      from public.ai_retry_open o where o.user_id = p_user_id
    ) o;
  live := v_open.live;
  live_until := v_open.live_until;
  quota := pg_catalog.jsonb_build_object(
    'limit', v_limit, 'window_seconds', v_seconds, 'captured', v_captured, 'held', v_open.held,
    'resets_at', case
      when v_limit = 0 then null
      when v_open.held >= v_limit then v_open.held_until
      when v_captured + v_open.held >= v_limit then v_spent[v_limit - v_open.held] + v_window
      else v_spent[v_captured] + v_window end);
  if p_generation_id is null then
    return;
  end if;
  -- The version: everything of one generation that a decision to begin rests on.
  select coalesce(o.number, c.number, 1) as number, o.lease_expires_at,
      coalesce(o.lease_expires_at + pg_catalog.make_interval(secs => o.abandoned_wait_seconds), o.due_at,
        c.next_attempt_at) as next_attempt_at,
      o.answer is not null or exists (
        select from public.ai_retry_answers w where w.generation_id = p_generation_id) as has_answer,
      exists (select from public.ai_retry_attempts u where u.user_id = p_user_id and u.untold) as is_untold
    into v_last
    from (select) nothing
    left join public.ai_retry_open o on o.generation_id = p_generation_id
    left join lateral (
      select l.number, l.next_attempt_at from public.ai_retry_attempts l
      where l.generation_id = p_generation_id order by l.number desc limit 1
    ) c on true;
  if v_last.has_answer then
    select s.number, s.answer || pg_catalog.jsonb_build_object('number', s.number, 'stored_at', s.stored_at)
      into v_answer_number, stored_answer
      from (
        select w.number, w.answer, w.stored_at
        from public.ai_retry_answers w join public.ai_retry_attempts c using (generation_id, number)
        where w.generation_id = p_generation_id and c.user_id = p_user_id  -- no other user's, who had the id before
        union all
        select o.number, o.answer, o.started_at from public.ai_retry_open o
        where o.generation_id = p_generation_id and o.user_id = p_user_id and o.answer is not null
      ) s
      order by s.number desc limit 1;
  end if;
  version := pg_catalog.concat_ws('/', p_status, v_last.number, v_last.lease_expires_at is null,
    extract(epoch from v_last.next_attempt_at), v_answer_number::text,
    v_override.quota_limit::text, v_override.window_seconds::text);
  is_over := v_last.is_untold or v_open.is_over is true or v_last.lease_expires_at <= p_at is true;
end
$$;
comment on function ai_retry.standing(uuid, uuid, text, jsonb, timestamptz) is
  'How a user stands, and, unless it is null, a generation: its version and stored answer; the quota, and running '
  'attempts; whether ai_retry.close_over has something to do.';
