create function ai_retry.store_late(p_change jsonb, p_at timestamptz) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_user_id constant uuid := (p_change ->> 'user_id')::uuid;
  v_generation_id constant uuid := (p_change ->> 'generation_id')::uuid;
  v_token constant uuid := (p_change ->> 'token')::uuid;
  v_answer constant jsonb := coalesce(
    case when p_change #>> '{success,answer_from}' is null then p_change #> '{success,answer}' end,
    nullif(p_change #> '{closing,answer}', 'null'), p_change -> 'answer');
  v_call constant jsonb := p_change -> 'call';
  v_is_gone boolean;
  v_has_session boolean;
begin
  if v_call is null then
    return;
  elsif v_answer is not null then
    begin
      v_is_gone := ai_retry.app_lock(v_generation_id, '25ms') is null;
    exception when others or assert_failure or query_canceled then
      null;  -- whatever the app has locked, a known attempt's answer has its place
    end;
    v_has_session := exists (
      select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.outcome = 'succeeded');
    if not v_has_session and not exists (
      select from public.ai_retry_attempts c where c.generation_id = v_generation_id and c.token = v_token)
    then
      -- A fail-over has lost the begin: the answer waits with the attempt that is open, or one is recorded for it. Until
      -- then no begin may take its number.
      if v_is_gone then
        return;
      elsif v_is_gone is null then
        raise exception 'ai-retry: the generation is locked' using errcode = 'lock_not_available';
      end if;
      update public.ai_retry_open o set answer = coalesce(o.answer, v_answer)
        where o.generation_id = v_generation_id and o.user_id = v_user_id;
      if found then
        return;
      elsif exists (select from public.ai_retry_open o where o.generation_id = v_generation_id) then
        raise exception 'ai-retry: an attempt of another user is open' using errcode = 'lock_not_available';
      end if;
      begin
        insert into public.ai_retry_attempts (
          generation_id, number, user_id, token, started_at, closed_at, outcome, code, counted, charge, provider_outcome
        ) select
          v_generation_id, 1 + coalesce(max(c.number), 1), v_user_id, v_token, p_at, p_at, 'abandoned', 'LEASE_LOST',
          false, false, 'unknown'
          from public.ai_retry_attempts c where c.generation_id = v_generation_id;
      exception when foreign_key_violation then
        return;  -- the user is gone, and what is a user's goes with them
      end;
    end if;
  end if;
  update public.ai_retry_attempts c  -- what it cost is recorded, whatever became of it
    set provider_outcome = v_call ->> 'provider_outcome', model = v_call ->> 'model',
      usage = nullif(v_call -> 'usage', 'null'), provider_id = v_call ->> 'provider_id',
      duration_ms = (v_call ->> 'duration_ms')::integer, calls = nullif(v_call -> 'calls', '[]'),
      wire_requests = c.wire_requests + (v_call ->> 'wire_requests')::integer
    where c.generation_id = v_generation_id and c.token = v_token and c.provider_outcome = 'unknown'
      and c.calls is null and (v_answer is not null or c.outcome = 'abandoned');
  insert into public.ai_retry_answers (generation_id, number, answer, stored_at)
    select v_generation_id, c.number, v_answer, p_at from public.ai_retry_attempts c
    where c.generation_id = v_generation_id and c.token = v_token and c.discarded_at is null
      and v_answer is not null and not v_has_session and v_is_gone is not true
    on conflict do nothing;
end
$$;
revoke all on function ai_retry.store_late(jsonb, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.store_late(jsonb, timestamptz) to service_role;
comment on function ai_retry.store_late(jsonb, timestamptz) is
  'Records what a late call cost, once, and stores its answer, if it has one, with the attempt that paid for it, unless the '
  'generation is gone or has its session, or an operator discarded the answer.';
