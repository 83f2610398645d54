-- Users whose quota differs from the default.

create table public.ai_retry_quotas (
  user_id uuid primary key references auth.users (id) on delete cascade,
  quota_limit integer,
  window_seconds double precision default 86400,
  set_at timestamptz,
  constraint quota_limit_is_not_negative check (quota_limit >= 0),
  constraint limit_or_usual check (quota_limit is null or window_seconds is not null),
  constraint window_is_positive_and_finite check (window_seconds > 0 and window_seconds < 'infinity')
);

alter table public.ai_retry_quotas enable row level security;
revoke all on table public.ai_retry_quotas from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.ai_retry_quotas to service_role;

comment on table public.ai_retry_quotas is 'ai-retry: users whose quota differs from the default. Operators only.';
comment on column public.ai_retry_quotas.user_id is 'The user whom the quota is for.';
comment on column public.ai_retry_quotas.quota_limit is 'Units per window; with 0 the user has none; null: the usual ones again.';
comment on column public.ai_retry_quotas.window_seconds is 'Length of the rolling window; more than ten years count as ten years.';
comment on column public.ai_retry_quotas.set_at is
  'When an operator last changed it: the books judge units by it that were admitted since; null: all units.';
