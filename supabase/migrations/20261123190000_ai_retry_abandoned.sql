-- ai-retry: whoever closes an attempt whose lease ran out tells the app.
--
-- Until now the reaper alone did. A claim closes the user's other expired attempts as well, or a late answer to one of
-- them would spend a unit that was given to somebody else: their generations said processing until they were retried.

set lock_timeout = '5s';
set statement_timeout = '60s';

create or replace function public.ai_retry_abandon(p_tokens uuid[], p_at timestamptz)
returns void
language plpgsql
volatile
security invoker
set search_path = ''
as $$
declare
  v_attempt public.ai_retry_attempts%rowtype;
  v_generation public.generations%rowtype;
begin
  for v_attempt in
    update public.ai_retry_attempts a
      set state = 'closed', outcome = 'abandoned', code = 'LEASE_LOST', closed_at = p_at
      where a.token = any (p_tokens) and a.outcome is null
      returning a.*
  loop
    -- Waits for nobody: the caller holds another generation's row. Who holds this one is just writing it.
    select * into v_generation from public.generations g
      where g.id = v_attempt.generation_id and g.status = 'processing' for no key update skip locked;
    if found then
      perform public.ai_retry_record_failure(
        v_generation, v_attempt.number, case when v_attempt.accepted_at is null then 'timeout' else 'queued' end,
        'LEASE_LOST', 'The attempt was not finished in time.', null, p_at);
    end if;
    if v_attempt.accepted_at is not null then
      perform public.ai_retry_requeue(v_attempt, v_attempt.next_attempt_at, 'timeout', p_at);
    end if;
  end loop;
end
$$;
comment on function public.ai_retry_abandon(uuid[], timestamptz) is
  'Closes attempts whose lease ran out, and tells the app; an accepted retry goes on with the next one, whose message is '
  'the old one''s.';

create or replace function public.ai_retry_reap()
returns integer
language plpgsql
volatile
security invoker
set search_path = ''
set lock_timeout = '3s'
as $$
declare
  v_attempt public.ai_retry_attempts%rowtype;
  v_now timestamptz := pg_catalog.clock_timestamp();
begin
  for v_attempt in
    select * from public.ai_retry_attempts a
    where a.outcome is null and (
      a.state = 'running' and a.lease_expires_at <= v_now or a.state = 'queued' and a.expires_at <= v_now)
    order by coalesce(a.lease_expires_at, a.expires_at)
  loop
    -- Waits for nobody: who is busy now is tidied another time, or by the user's next claim.
    begin
      continue when not pg_catalog.pg_try_advisory_xact_lock(
        pg_catalog.hashtextextended('ai_retry:' || v_attempt.user_id::text, 0));
      perform from public.generations g where g.id = v_attempt.generation_id;
      if found then
        perform from public.generations g where g.id = v_attempt.generation_id for no key update skip locked;
        continue when not found;  -- abandoned while somebody holds its row, it would not be told
      end if;
      perform pg_catalog.set_config('lock_timeout', '25ms', true);
      select * into v_attempt from public.ai_retry_attempts a
        where a.token = v_attempt.token and a.outcome is null;
      continue when not found;  -- somebody else's since
      if v_attempt.state = 'queued' then
        perform public.ai_retry_cancel(
          v_attempt.user_id, v_attempt.generation_id, 'RETRY_EXPIRED', 'The accepted retry was not finished in time.');
        return 1;
      end if;
      perform public.ai_retry_abandon(array[v_attempt.token], v_now);
      return 1;  -- one per transaction: nobody waits for more than one row of ours
    exception when lock_not_available then
      continue;  -- the user is just being deleted, say
    end;
  end loop;
  -- Users may name the models: of those that nobody asks any more nothing is kept.
  delete from public.ai_retry_outages o
    where o.route in (
      select r.route from public.ai_retry_outages r where r.not_before < v_now - interval '1 day'
      for update skip locked);
  return 0;
end
$$;
comment on function public.ai_retry_reap() is
  'For pg_cron: closes one attempt whose lease ran out, or one accepted retry whose time is up, and tells the app; '
  'answers how many (0 or 1). Only tidies. Call it in transactions of their own until it answers 0.';

-- An error of the app's that has no type is found by the code under which it is shown.

create or replace function public.ai_retry_last_error(p_generation_id uuid)
returns jsonb
language sql
stable
security invoker
set search_path = ''
as $$
  select coalesce(
    (
      select pg_catalog.jsonb_build_object('code', a.code, 'reason', a.reason, 'at', a.closed_at, 'ours', true)
      from public.ai_retry_attempts a
      where a.generation_id = p_generation_id and a.outcome in ('failed', 'abandoned')
      order by a.number desc limit 1
    ),
    (
      -- The app wrote its message, perhaps with a prompt in it: only the type goes on.
      select pg_catalog.jsonb_build_object(
        'code', coalesce(l.error_type, 'UNKNOWN'), 'reason', null, 'at', l.created_at, 'ours', false)
      from public.generation_error_logs l
      where l.generation_id = p_generation_id
      order by l.created_at desc nulls last limit 1
    ))
$$;

revoke all on function public.ai_retry_abandon, public.ai_retry_reap, public.ai_retry_last_error
from public, anon, authenticated;
grant execute on function public.ai_retry_abandon, public.ai_retry_reap, public.ai_retry_last_error
to service_role;

reset lock_timeout;
reset statement_timeout;
