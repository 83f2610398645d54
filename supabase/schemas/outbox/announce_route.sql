create function ai_retry.announce_route() returns trigger
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_was_closed constant boolean := tg_op <> 'INSERT' and old.failures > 0;
  v_is_closed constant boolean := tg_op <> 'DELETE' and new.failures > 0;
begin
  if v_is_closed and not v_was_closed then
    perform ai_retry.announce('route.closed', new.route, pg_catalog.jsonb_build_object(
      'route', new.route, 'not_before', new.not_before), pg_catalog.clock_timestamp());
  elsif v_was_closed and not v_is_closed then
    perform ai_retry.announce('route.opened', old.route, pg_catalog.jsonb_build_object(
      'route', old.route, 'answered', tg_op = 'UPDATE'), pg_catalog.clock_timestamp());
  end if;
  return null;
end
$$;
revoke all on function ai_retry.announce_route() from public, anon, authenticated;
grant execute on function ai_retry.announce_route() to service_role;
comment on function ai_retry.announce_route() is
  'Announces that a route is closed, whoever closes it, and that it is open again: it has answered, or is forgotten.';

create or replace trigger ai_retry_announce after insert or update or delete on public.ai_retry_outages
  for each row execute function ai_retry.announce_route();
