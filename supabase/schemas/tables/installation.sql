-- The id of this installation, in exactly one row, and whether it has a webhook. Files with answers carry the id: an
-- answer belongs to one database.

create table public.ai_retry_installation (
  id uuid not null,
  webhook_until timestamptz,
  is_only boolean primary key default true,
  constraint one_row check (is_only)
);

insert into public.ai_retry_installation (id) values (gen_random_uuid()) on conflict do nothing;

alter table public.ai_retry_installation enable row level security;
revoke all on table public.ai_retry_installation from public, anon, authenticated, service_role;
grant select, update (webhook_until) on table public.ai_retry_installation to service_role;

comment on table public.ai_retry_installation is 'ai-retry: the id of this installation. Operators only.';
comment on column public.ai_retry_installation.id is 'Chosen by the migration, and never changed.';
comment on column public.ai_retry_installation.webhook_until is 'Until when messages for the webhook are written; processes that deliver them prolong it.';
comment on column public.ai_retry_installation.is_only is 'Always true: the table has one row.';
