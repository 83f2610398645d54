create function public.ai_retry_prune(p_request text) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '25ms' as $$
declare
  v_request constant jsonb := ai_retry.read_change(
    p_request, '{older_than_seconds,window_seconds,after,page,dry_run}');
  v_dry_run constant boolean := (v_request -> 'dry_run')::boolean;
  v_page constant integer := least((v_request ->> 'page')::integer, 1000);
  v_now constant timestamptz := pg_catalog.clock_timestamp();
  v_before constant timestamptz := v_now - pg_catalog.make_interval(secs => greatest(
    (v_request ->> 'older_than_seconds')::double precision, (v_request ->> 'window_seconds')::double precision, 86400));
  v_rows uuid[];
  v_ids uuid[];
  v_gone uuid[];
  v_busy uuid[];
  v_attempts bigint;
  v_answers bigint;
  v_actions bigint := 0::bigint;
begin
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'ai_retry functions need the isolation level read committed'
      using errcode = 'invalid_transaction_state';
  end if;
  if v_dry_run then
    if not v_request ? 'after' then
      v_actions := (select count(*) from public.ai_retry_actions a where a.at < v_before);
    end if;
  else
    delete from public.ai_retry_actions a where a.id in (
      select o.id from public.ai_retry_actions o where o.at < v_before order by o.at limit v_page for update skip locked);
    get diagnostics v_actions = row_count;
  end if;
  v_rows := array(
    select a.generation_id from public.ai_retry_attempts a
    where a.generation_id > coalesce((v_request ->> 'after')::uuid, '00000000-0000-0000-0000-000000000000')
    order by a.generation_id, a.number limit v_page);
  v_gone := ai_retry.gone(v_rows);
  v_ids := array(
    select o.generation_id from ai_retry.outdated(v_rows, v_gone, v_before, v_now) o
    union
    select w.generation_id from public.ai_retry_answers w where w.generation_id = any (v_gone));
  if not v_dry_run and v_ids <> '{}' then
    -- Whoever begins or settles holds the user's lock: what is theirs is removed another time.
    v_busy := array(
      select u.user_id
      from (select distinct a.user_id from public.ai_retry_attempts a where a.generation_id = any (v_ids)) u
      where not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('ai_retry:' || u.user_id::text, 0)));
    v_ids := array(
      select i.id from pg_catalog.unnest(v_ids) i (id)
      where not exists (
        select from public.ai_retry_attempts a where a.generation_id = i.id and a.user_id = any (v_busy)));
    v_gone := ai_retry.gone(v_ids);
  end if;
  v_attempts := (select count(*) from ai_retry.outdated(v_ids, v_gone, v_before, v_now));
  v_answers := (select count(*) from public.ai_retry_answers w where w.generation_id = any (v_gone));
  if not v_dry_run then
    delete from public.ai_retry_answers w where w.generation_id = any (v_gone);
    with removed as (
      delete from public.ai_retry_attempts a using ai_retry.outdated(v_ids, v_gone, v_before, v_now) o
        where a.generation_id = any (v_ids) and a.generation_id = o.generation_id and a.number = o.number
        returning a.generation_id
    )
    update public.ai_retry_attempts s set pruned = s.pruned + r.number
      from (select m.generation_id, count(*)::integer as number from removed m group by m.generation_id) r
      where s.generation_id = any (v_ids) and s.generation_id = r.generation_id and s.outcome = 'succeeded'
        and s.generation_id <> all (v_gone);
  end if;
  return pg_catalog.jsonb_build_object(
    'attempts', v_attempts, 'answers', v_answers, 'actions', v_actions,
    'next', case when pg_catalog.cardinality(v_rows) = v_page then v_rows[v_page]
      when v_actions = v_page and not v_dry_run then 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid end);
end
$$;
revoke all on function public.ai_retry_prune(text) from public, anon, authenticated;
grant execute on function public.ai_retry_prune(text) to service_role;
comment on function public.ai_retry_prune(text) is
  'Removes history that no decision needs any more, older than older_than_seconds, than window_seconds (the longest of the '
  'policy) and than a day: attempts of generations that are gone, and attempts that failed before their generation '
  'succeeded; stored answers of generations that are gone, however new; and what operators did. One page of attempts and '
  'of actions, to be called again with next as after until next is null. dry_run: counts only.';
