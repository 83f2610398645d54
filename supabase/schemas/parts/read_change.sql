create function ai_retry.read_change(p_change text, p_keys text[]) returns jsonb
language plpgsql immutable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  v_change constant jsonb := p_change::jsonb;
  v_success constant jsonb := v_change -> 'success';
  v_calls constant jsonb := coalesce(v_change #> '{call,calls}', '[]');
  v_elsewhere constant jsonb := coalesce(v_change -> 'elsewhere', v_change #> '{put_back,elsewhere}', '[]');
  v_unknown jsonb[];
begin
  if v_change -> 'protocol' is distinct from '2'::jsonb then
    raise exception 'ai-retry: a change of another version; apply the migrations of this one'
      using errcode = 'invalid_parameter_value';
  end if;
  -- What is left of each object without the keys that it may have.
  v_unknown := array[
    v_change - p_keys - 'protocol',
    (v_change -> 'rule') - '{limit,window_seconds,count_own_successes}'::text[],
    (v_change -> 'open') - '{charge,idempotency_key,waived,operator,lease_seconds,longest_seconds,'
      'abandoned_wait_seconds,answer_from,route,wait_seconds,expires_after_seconds,status_before,in_line,'
      'context_reader,create,request_id,traceparent}'::text[],
    nullif(v_change #> '{open,create}', 'null') - '{prompt_data,model,columns,digest}'::text[],
    (v_change -> 'run') - '{number,lease_seconds,longest_seconds,abandoned_wait_seconds,answer_from,route}'::text[],
    v_success - '{answer,answer_from,if_rejected}'::text[],
    (v_success -> 'if_rejected') - '{message,wait_seconds,again_wait_seconds}'::text[],
    (v_change -> 'closing') - '{outcome,code,counted,wait_seconds,status,message,reason,transient,operator_fault,'
      'goes_on,answer}'::text[],
    nullif(coalesce(v_success -> 'answer', v_change #> '{closing,answer}', v_change -> 'answer'), 'null')
      - '{output,model,usage,provider_id}'::text[],
    (v_change -> 'call') - '{provider_outcome,duration_ms,model,usage,provider_id,wire_requests,calls}'::text[],
    coalesce(v_change -> 'outage', v_change #> '{put_back,outage}') - '{wait_seconds,failures,doubts}'::text[],
    (v_change -> 'renew') - '{generation_id,token,lease_seconds}'::text[],
    (v_change -> 'discard') - '{user_id,generation_id,operator}'::text[],
    (v_change -> 'put_back') - '{user_id,generation_id,token,wait_seconds,wire_requests,provider_outcome,outage,'
      'elsewhere}'::text[],
    (v_change -> 'action') - '{id,operator,role,action,target,reason,user_id}'::text[],
    coalesce(v_change -> 'hold_route', v_change -> 'open_route', v_change -> 'set_quota', v_change -> 'reset_quota',
      v_change -> 'read_answer') - '{route,duration_seconds,user_id,limit,window_seconds,generation_id}'::text[],
    (v_change -> 'postpone') - '{user_id,generation_id,message_id,wait_seconds,spread_seconds,route}'::text[]];
  for v_place in 0 .. pg_catalog.jsonb_array_length(v_calls) - 1 loop
    v_unknown := v_unknown
      || ((v_calls -> v_place) - '{route,provider,model,code,http_status,usage,duration_ms,outcome}'::text[]);
  end loop;
  for v_place in 0 .. pg_catalog.jsonb_array_length(v_elsewhere) - 1 loop
    v_unknown := v_unknown || ((v_elsewhere -> v_place) - '{route,outage}'::text[])
      || (nullif(v_elsewhere #> array[v_place::text, 'outage'], 'null') - '{wait_seconds,failures,doubts}'::text[]);
  end loop;
  if '{}' <> any (v_unknown) then
    raise exception 'ai-retry: a change with the unknown key %; apply the migrations of this version',
      (select k from pg_catalog.unnest(v_unknown) u, pg_catalog.jsonb_object_keys(u) k limit 1)
      using errcode = 'invalid_parameter_value';
  end if;
  return v_change;
end
$$;
revoke all on function ai_retry.read_change(text, text[]) from public, anon, authenticated;
grant execute on function ai_retry.read_change(text, text[]) to service_role;
comment on function ai_retry.read_change(text, text[]) is
  'Reads a change, and refuses one of another protocol, or with a key that this version does not know, at any depth, '
  'before any lock.';
