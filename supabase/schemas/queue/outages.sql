create view ai_retry.outages with (security_invoker = true) as
  select o.* from public.ai_retry_outages o
  where o.since > '-infinity' and o.not_before > pg_catalog.clock_timestamp() - interval '1 day';
revoke all on table ai_retry.outages from public, anon, authenticated;
grant select on table ai_retry.outages to service_role;
comment on view ai_retry.outages is
  'ai-retry: routes that are unavailable, or were within a day. What is older is forgotten, since users may invent models.';
