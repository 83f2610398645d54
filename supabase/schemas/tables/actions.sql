-- What operators did, and why. The app's events belong to users, and an operator is none.

create table public.ai_retry_actions (
  id uuid primary key,
  operator text not null,
  role text not null,
  action text not null,
  target text not null,
  user_id uuid references auth.users (id) on delete cascade,
  reason text not null,
  at timestamptz not null,
  ended_at timestamptz,
  outcome text,
  constraint ended_with_an_outcome check ((ended_at is null) = (outcome is null)),
  constraint reasons_are_given check (reason <> '' and length(reason) <= 500)
);

create index ai_retry_actions_at on public.ai_retry_actions (at);
create index ai_retry_actions_target on public.ai_retry_actions (target, at);
create index ai_retry_actions_user on public.ai_retry_actions (user_id);

alter table public.ai_retry_actions enable row level security;
revoke all on table public.ai_retry_actions from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.ai_retry_actions to service_role;

comment on table public.ai_retry_actions is
  'ai-retry: what operators did, by name and with a reason; ai_retry_prune removes old ones. Operators only.';
comment on column public.ai_retry_actions.id is 'Chosen by the caller, so that recording can be repeated.';
comment on column public.ai_retry_actions.operator is 'The operator''s name.';
comment on column public.ai_retry_actions.role is 'The operator''s role then: operator or admin.';
comment on column public.ai_retry_actions.action is 'Such as retry, cancel, hold_route, set_quota or kept_answer.';
comment on column public.ai_retry_actions.target is 'What it was done to, such as generation:<id>, user:<id>, route:<name> or plan:<id>.';
comment on column public.ai_retry_actions.user_id is 'The user whom it concerns; the row goes with the user.';
comment on column public.ai_retry_actions.reason is 'Why, in the operator''s words.';
comment on column public.ai_retry_actions.at is 'When it was begun.';
comment on column public.ai_retry_actions.ended_at is 'When it ended; null while it is under way, or if its process died.';
comment on column public.ai_retry_actions.outcome is 'done, nothing (there was nothing to do), or the code of an error.';
