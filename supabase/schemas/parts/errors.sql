create function ai_retry.passes(p_sqlstate text)
returns boolean
language plpgsql immutable security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Links, isolation, deadlocks, resources, shutdowns, locks, internal faults: PostgreSQL documentation, appendix A.
  return pg_catalog.left(p_sqlstate, 2) in ('08', '25', '40', '53', '57', '58', 'XX')
    or p_sqlstate in ('55P03', '55006');
end
$$;
comment on function ai_retry.passes(text) is
  'Whether an error passes by itself: the transaction is undone and sent again. Any other error is the app''s rejection.';
