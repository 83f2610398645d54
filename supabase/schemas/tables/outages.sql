-- Routes that are unavailable, or coming back.

create table public.ai_retry_outages (
  route text primary key,
  not_before timestamptz not null,
  since timestamptz not null,
  failures integer not null,
  doubts integer not null default 0,
  slots integer not null,
  began_at timestamptz,
  held_until timestamptz,
  constraint failures_are_not_negative check (failures >= 0),
  constraint doubts_are_not_negative check (doubts >= 0),
  constraint slots_are_positive check (slots >= 1)
);

alter table public.ai_retry_outages enable row level security;
revoke all on table public.ai_retry_outages from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.ai_retry_outages to service_role;

comment on table public.ai_retry_outages is
  'ai-retry: providers and models that are unavailable, held, or coming back; attempts wait for them. Operators only.';
comment on column public.ai_retry_outages.route is 'Provider and model.';
comment on column public.ai_retry_outages.not_before is 'No call is sent there before this instant, nor before held_until.';
comment on column public.ai_retry_outages.since is
  'When the latest failure showed it; answers to older calls prove nothing. -infinity: none did, there are only doubts.';
comment on column public.ai_retry_outages.failures is
  'Failures in a row, no answer between them: the longer the outage, the rarer the probes.';
comment on column public.ai_retry_outages.doubts is
  'Failures in a row that each may have been the fault of one request; many of them are an outage.';
comment on column public.ai_retry_outages.slots is
  'Calls that may run at once when it opens again; each answer doubles them. From 64 on there is no limit.';
comment on column public.ai_retry_outages.began_at is 'When the first of these failures in a row showed it; null: none did.';
comment on column public.ai_retry_outages.held_until is
  'Until then an operator holds it: no call is sent there, not even one that probes, and no answer changes that.';
