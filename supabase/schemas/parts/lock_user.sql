create function ai_retry.lock_user(p_user_id uuid) returns timestamptz
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
begin
  -- After a lock, the next statement must see what the lock's last holder committed.
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'ai_retry functions need the isolation level read committed'
      using errcode = 'invalid_transaction_state';
  end if;
  -- Later rows of ours are written: the deletion of the user may wait for them while it holds what we need.
  perform pg_catalog.set_config('lock_timeout', '3s', true),
    pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('ai_retry:' || p_user_id::text, 0)),
    pg_catalog.set_config('lock_timeout', '25ms', true);
  return pg_catalog.clock_timestamp();
end
$$;
revoke all on function ai_retry.lock_user(uuid) from public, anon, authenticated;
grant execute on function ai_retry.lock_user(uuid) to service_role;
comment on function ai_retry.lock_user(uuid) is
  'Takes the first lock of every verb that begins or settles, which orders ai-retry''s writes for one user, and returns '
  'the time.';
