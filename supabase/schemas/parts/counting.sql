create function ai_retry.rule(p_user_id uuid, p_rule jsonb)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule constant jsonb := p_rule || coalesce((
    select pg_catalog.jsonb_build_object('limit', q.quota_limit, 'window_seconds', q.window_seconds)
    from public.ai_retry_quotas q where q.user_id = p_user_id), '{}');
begin
  return v_rule || pg_catalog.jsonb_build_object(
    'window_seconds', least((v_rule ->> 'window_seconds')::double precision, 315576000));
end
$$;
comment on function ai_retry.rule(uuid, jsonb) is
  'The limit and the window that apply to a user: the override''s, if there is one. No window is longer than ten years.';

create function ai_retry.captures(p_user_id uuid, p_rule jsonb, p_limit integer, p_at timestamptz)
returns setof timestamptz
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_since constant timestamptz :=
    p_at - pg_catalog.make_interval(secs => (p_rule ->> 'window_seconds')::double precision);
begin
  if (p_rule -> 'count_own_successes')::boolean then
    return query
      select u.spent_at
      from (
        (select c.captured_at as spent_at from public.ai_retry_attempts c
          where c.user_id = p_user_id and c.captured_at > v_since order by c.captured_at desc limit p_limit)
        union all
        select o.* from ai_retry.app_own_successes(p_user_id, v_since, p_limit, p_at) o
      ) u
      order by u.spent_at desc limit p_limit;
  else
    return query
      select c.captured_at from public.ai_retry_attempts c
      where c.user_id = p_user_id and c.captured_at > v_since
      order by c.captured_at desc limit p_limit;
  end if;
end
$$;
comment on function ai_retry.captures(uuid, jsonb, integer, timestamptz) is
  'When the user''s units in the rule''s window were spent, the newest first, no more than the limit: what counts as used.';

create function ai_retry.quota(p_user_id uuid, p_rule jsonb, p_at timestamptz)
returns jsonb
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule constant jsonb := ai_retry.rule(p_user_id, p_rule);
  v_limit constant integer := v_rule ->> 'limit';
  v_window constant interval := pg_catalog.make_interval(secs => (v_rule ->> 'window_seconds')::double precision);
  v_spent constant timestamptz[] := array(select ai_retry.captures(p_user_id, v_rule, v_limit, p_at));
  v_held integer;
  v_first_end timestamptz;
begin
  -- Held: what stays held when everything that is over is closed. An accepted retry keeps its unit.
  select count(*), min(o.lease_expires_at) into v_held, v_first_end
    from public.ai_retry_open o
    where o.user_id = p_user_id and o.charge and (o.accepted_at is not null or o.lease_expires_at > p_at);
  return pg_catalog.jsonb_build_object(
    'limit', v_limit, 'window_seconds', v_rule -> 'window_seconds', 'captured', pg_catalog.cardinality(v_spent),
    'held', v_held,
    'resets_at', case
      when v_limit = 0 then null
      when v_held >= v_limit then v_first_end
      when pg_catalog.cardinality(v_spent) + v_held >= v_limit then v_spent[v_limit - v_held] + v_window
      else v_spent[pg_catalog.cardinality(v_spent)] + v_window end);
end
$$;
comment on function ai_retry.quota(uuid, jsonb, timestamptz) is
  'The user''s quota: the limit and window that apply, units captured and held, and when the next one comes back.';

create function ai_retry.version(p_user_id uuid, p_generation_id uuid, p_status text)
returns text
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select pg_catalog.concat_ws('/', p_status, coalesce(o.number, c.number, 1), o.lease_expires_at is null,
      extract(epoch from coalesce(
        o.lease_expires_at + pg_catalog.make_interval(secs => o.abandoned_wait_seconds), o.due_at, c.next_attempt_at)),
      coalesce(case when o.answer is not null and o.user_id = p_user_id then o.number end, a.number)::text,
      q.quota_limit::text, q.window_seconds::text)
    from (select) nothing
    left join public.ai_retry_open o on o.generation_id = p_generation_id
    left join lateral (
      select l.number, l.next_attempt_at from public.ai_retry_attempts l
      where l.generation_id = p_generation_id order by l.number desc limit 1
    ) c on true
    left join lateral (
      select s.number
      from public.ai_retry_answers s join public.ai_retry_attempts l using (generation_id, number)
      where s.generation_id = p_generation_id and l.user_id = p_user_id
      order by s.number desc limit 1
    ) a on true
    left join public.ai_retry_quotas q on q.user_id = p_user_id
  );
end
$$;
comment on function ai_retry.version(uuid, uuid, text) is
  'Everything of one generation that a decision to begin rests on: status, highest number, whether it is queued, its '
  'wait, the stored answer, the user''s override.';
