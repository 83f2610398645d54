-- Whatever role created a function of the binding, under whatever default privileges, no end user may execute it.

revoke all on all functions in schema ai_retry from public, anon, authenticated;
grant execute on all functions in schema ai_retry to service_role;
