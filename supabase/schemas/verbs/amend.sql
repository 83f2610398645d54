create function public.ai_retry_amend(p_change text)
returns jsonb
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  v_change constant jsonb := ai_retry.read_change(p_change, array['renew', 'discard', 'put_back', 'postpone']);
  v_renew constant jsonb := v_change -> 'renew';
  v_discard constant jsonb := v_change -> 'discard';
  v_now timestamptz := pg_catalog.clock_timestamp();
begin
  perform pg_catalog.set_config('lock_timeout', '3s', true);
  if v_renew is not null then
    -- One row, without the user's lock, also of an attempt that is over: closing looks at the lease as it deletes.
    update public.ai_retry_open o
      set lease_expires_at = greatest(o.lease_expires_at, least(
        v_now + pg_catalog.make_interval(secs => (v_renew ->> 'lease_seconds')::double precision), o.renewable_until))
      where o.generation_id = (v_renew ->> 'generation_id')::uuid and o.token = (v_renew ->> 'token')::uuid
        and o.lease_expires_at is not null and o.kept_cause is null;
    return pg_catalog.jsonb_build_object('applied', found);
  end if;
  if v_change ? 'put_back' then
    return pg_catalog.jsonb_build_object('applied', ai_retry.put_back(v_change -> 'put_back'));
  elsif v_change ? 'postpone' then
    return pg_catalog.jsonb_build_object('applied', ai_retry.postpone(v_change -> 'postpone'));
  end if;
  perform ai_retry.lock_user((v_discard ->> 'user_id')::uuid);
  if (ai_retry.app_read((v_discard ->> 'generation_id')::uuid) ->> 'user_id')::uuid
    is distinct from (v_discard ->> 'user_id')::uuid or exists (
    select from public.ai_retry_open o
    where o.generation_id = (v_discard ->> 'generation_id')::uuid and (o.answer_from is not null or o.answer is not null))
  then
    return pg_catalog.jsonb_build_object('applied', false);
  end if;
  with gone as (
    delete from public.ai_retry_answers a
      using public.ai_retry_attempts c
      where a.generation_id = (v_discard ->> 'generation_id')::uuid and c.generation_id = a.generation_id
        and c.number = a.number
      returning a.generation_id, a.number
  )
  update public.ai_retry_attempts c set discarded_at = v_now, discarded_by = v_discard ->> 'operator'
    from gone where c.generation_id = gone.generation_id and c.number = gone.number;
  return pg_catalog.jsonb_build_object('applied', found);
end
$$;
comment on function public.ai_retry_amend(text) is
  'Prolongs the lease of a running attempt (renew), drops stored answers (discard), queues a running attempt again '
  '(put_back), or puts a message back (postpone). Closes nothing.';
