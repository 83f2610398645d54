-- Messages for the webhook, each until it is delivered or given up. The transaction that makes something true writes the
-- message about it, and only while processes deliver messages: see ai_retry_installation.webhook_until.

create table public.ai_retry_outbox (
  id uuid primary key default gen_random_uuid(),
  type text not null,
  subject text not null,
  data jsonb not null,
  happened_at timestamptz not null,
  generation_id uuid,
  number integer,
  tries integer not null default 0,
  due_at timestamptz not null,
  foreign key (generation_id, number) references public.ai_retry_attempts (generation_id, number) on delete cascade
);

create index ai_retry_outbox_in_order on public.ai_retry_outbox (subject, happened_at);
create index ai_retry_outbox_due on public.ai_retry_outbox (due_at);
create index ai_retry_outbox_attempt on public.ai_retry_outbox (generation_id, number);

alter table public.ai_retry_outbox enable row level security;
revoke all on table public.ai_retry_outbox from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.ai_retry_outbox to service_role;

comment on table public.ai_retry_outbox is 'ai-retry: messages for the webhook that are not delivered yet; ids and codes, no content. Operators only.';
comment on column public.ai_retry_outbox.id is 'Id of the message, the same at each delivery.';
comment on column public.ai_retry_outbox.type is 'What happened, such as ai_retry.generation.succeeded.';
comment on column public.ai_retry_outbox.subject is 'Generation, route or run that it is about.';
comment on column public.ai_retry_outbox.data is 'What the message says.';
comment on column public.ai_retry_outbox.happened_at is 'When it happened: the messages about one subject are sent in this order.';
comment on column public.ai_retry_outbox.generation_id is 'Generation of the attempt that it is about: the message goes with it, and so with its user.';
comment on column public.ai_retry_outbox.number is 'Number of that attempt.';
comment on column public.ai_retry_outbox.tries is 'How often a process has taken it.';
comment on column public.ai_retry_outbox.due_at is 'No process takes it before this instant.';
