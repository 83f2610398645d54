-- Columns and privileges that the binding needs, where a table of the app lacks them.

alter table public.generations
  add column if not exists status text, add column if not exists model text,
  add column if not exists prompt_data jsonb, add column if not exists duration_ms integer,
  add column if not exists session_id uuid, add column if not exists updated_at timestamptz,
  add column if not exists created_at timestamptz not null default statement_timestamp();
alter table public.generation_error_logs
  add column if not exists generation_id uuid, add column if not exists user_id uuid,
  add column if not exists error_type text, add column if not exists error_message text,
  add column if not exists created_at timestamptz default statement_timestamp();
alter table public.events
  add column if not exists user_id uuid, add column if not exists event_type text,
  add column if not exists event_data jsonb,
  add column if not exists created_at timestamptz default statement_timestamp();

grant select, insert, update on table public.generations to service_role;
grant select, insert on table public.sessions to service_role;
grant select, insert on table public.generation_error_logs, public.events to service_role;
