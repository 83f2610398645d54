-- Parts and the binding live in a schema that the Data API does not expose.

create schema if not exists ai_retry;
revoke all on schema ai_retry from public, anon, authenticated;
grant usage on schema ai_retry to service_role;

comment on schema ai_retry is 'ai-retry: parts of its functions, and the binding to the app''s tables (app_*). Operators only.';
