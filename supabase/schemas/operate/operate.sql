create function public.ai_retry_operate(p_request text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '3s' as $$
declare
  v_request constant jsonb := ai_retry.read_change(
    p_request, '{action,hold_route,open_route,set_quota,reset_quota,read_answer}');
  v_what constant jsonb := coalesce(v_request -> 'hold_route', v_request -> 'open_route', v_request -> 'set_quota',
    v_request -> 'reset_quota', v_request -> 'read_answer');
  v_user_id constant uuid := (v_what ->> 'user_id')::uuid;
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_applied boolean;
  v_answer jsonb;
begin
  if not v_request ? 'read_answer' then  -- a repeat does nothing more
    select a.outcome = 'done' into v_applied from public.ai_retry_actions a
      where a.id = (v_request #>> '{action,id}')::uuid and a.outcome is not null;
    if found then
      return pg_catalog.jsonb_build_object('applied', v_applied);
    end if;
  end if;
  if v_request ? 'hold_route' then
    insert into public.ai_retry_outages as o (route, not_before, since, failures, slots, held_until)
      values (v_what ->> 'route', v_now, '-infinity', 0, 64,
        v_now + pg_catalog.make_interval(secs => (v_what ->> 'duration_seconds')::double precision))
      on conflict (route) do update set held_until = excluded.held_until;
  elsif v_request ? 'open_route' then
    perform ai_retry.wake(v_what ->> 'route', v_now);
    delete from public.ai_retry_outages o where o.route = v_what ->> 'route';
  elsif v_request ? 'set_quota' then
    begin
      insert into public.ai_retry_quotas as q (user_id, quota_limit, window_seconds, set_at)
        values (v_user_id, (v_what -> 'limit')::integer, (v_what -> 'window_seconds')::double precision, v_now)
        on conflict (user_id) do update set
          quota_limit = excluded.quota_limit, window_seconds = excluded.window_seconds, set_at = excluded.set_at;
    exception when foreign_key_violation then
      null;  -- there is no such user: not found
    end;
  elsif v_request ? 'reset_quota' then
    update public.ai_retry_quotas q set quota_limit = null, window_seconds = null, set_at = v_now
      where q.user_id = v_user_id and q.quota_limit is not null;
  else
    select k.answer -> 'output' into v_answer
      from (
        select w.number, w.answer
        from public.ai_retry_answers w join public.ai_retry_attempts c using (generation_id, number)
        where w.generation_id = (v_what ->> 'generation_id')::uuid and c.user_id = v_user_id
        union all
        select o.number, o.answer from public.ai_retry_open o
        where o.generation_id = (v_what ->> 'generation_id')::uuid and o.user_id = v_user_id and o.answer is not null
      ) k
      order by k.number desc limit 1;
  end if;
  v_applied := found;
  perform ai_retry.record(v_request -> 'action', case when v_applied then 'done' else 'nothing' end, v_now);
  return pg_catalog.jsonb_build_object('applied', v_applied, 'answer', v_answer::text);
end
$$;
revoke all on function public.ai_retry_operate(text) from public, anon, authenticated;
grant execute on function public.ai_retry_operate(text) to service_role;
comment on function public.ai_retry_operate(text) is
  'Does what an operator orders, and records it in the same transaction: holds a route for a while, whatever calls show of '
  'it (hold_route); forgets that it is held or unavailable, and shows up to 1000 messages that wait for it (open_route); '
  'gives a user a quota, or the usual one (set_quota, reset_quota); returns the output of a kept answer (read_answer). '
  'applied: there was something to do. A repeat with the same id does nothing more.';
