create view ai_retry.outages with (security_invoker = true) as
  select o.route, greatest(o.not_before, o.held_until) as not_before, o.since, o.failures, o.doubts, o.slots, o.began_at,
    o.held_until
  from public.ai_retry_outages o
  where o.since > '-infinity' and o.not_before > pg_catalog.clock_timestamp() - interval '1 day'
    or o.held_until > pg_catalog.clock_timestamp();
revoke all on table ai_retry.outages from public, anon, authenticated;
grant select on table ai_retry.outages to service_role;
comment on view ai_retry.outages is
  'ai-retry: routes that are held or unavailable, or were unavailable within a day. What is older is forgotten, since users may invent models.';
