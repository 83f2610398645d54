create function ai_retry.read_change(p_change text, p_keys text[])
returns jsonb
language plpgsql immutable security invoker
set search_path = ''
as $$
declare
  v_change constant jsonb := p_change::jsonb;
  v_unknown text;
begin
  if v_change -> 'protocol' is distinct from '2'::jsonb then
    raise exception 'ai-retry: a change of another version; apply the migrations of this one'
      using errcode = 'invalid_parameter_value';
  end if;
  select k into v_unknown from pg_catalog.jsonb_object_keys(v_change) k
    where k <> 'protocol' and k <> all (p_keys) limit 1;
  if v_unknown is not null then
    raise exception 'ai-retry: a change with the unknown key %; apply the migrations of this version', v_unknown
      using errcode = 'invalid_parameter_value';
  end if;
  return v_change;
end
$$;
comment on function ai_retry.read_change(text, text[]) is
  'Reads a change, and refuses one of another protocol, or with a key that this version does not know, before any lock.';
