create function ai_retry.note_elsewhere(p_notes jsonb, p_started_at timestamptz, p_at timestamptz) returns void
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_note record;
begin
  for v_note in
    select e ->> 'route' as route, nullif(e -> 'outage', 'null') as outage
    from pg_catalog.jsonb_array_elements(p_notes) e order by 1
  loop
    perform ai_retry.note(v_note.route, v_note.outage, p_started_at, p_at);
  end loop;
end
$$;
revoke all on function ai_retry.note_elsewhere(jsonb, timestamptz, timestamptz) from public, anon, authenticated;
grant execute on function ai_retry.note_elsewhere(jsonb, timestamptz, timestamptz) to service_role;
comment on function ai_retry.note_elsewhere(jsonb, timestamptz, timestamptz) is
  'What an attempt showed of the routes that it fell back on, always in the same order.';
