create function ai_retry.gone(p_generation_ids uuid[]) returns uuid[]
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return array(select i.id from pg_catalog.unnest(p_generation_ids) i (id)
    except select l.id from ai_retry.app_look_up(p_generation_ids) l);
end
$$;
revoke all on function ai_retry.gone(uuid[]) from public, anon, authenticated;
grant execute on function ai_retry.gone(uuid[]) to service_role;
comment on function ai_retry.gone(uuid[]) is 'Returns those of the ids that are no generation of the app.';
