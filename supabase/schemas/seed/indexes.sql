-- Indexes on the app's tables, where it has none like them. On a large table build them before, concurrently and under
-- these names; then nothing is left to do here. No column of them is updated: a status that changes costs no entry.

do $index$
declare
  v_index record;
begin
  for v_index in
    select * from (values
      -- The app's own successes in the quota's window; failed generations, newest first; the last error of one.
      ('ai_retry_generations_user_id_created_at_idx', 'generations', array['user_id', 'created_at']),
      ('ai_retry_generations_created_at_idx', 'generations', array['created_at', 'id']),
      ('ai_retry_generation_error_logs_generation_id_idx', 'generation_error_logs', array['generation_id'])
    ) as i (name, tab, keys)
    where not exists (
      select from pg_catalog.pg_index x
      where x.indrelid = format('public.%I', i.tab)::regclass and x.indpred is null and x.indisvalid
        and i.keys = array(
          select pg_catalog.pg_get_indexdef(x.indexrelid, n, true) from generate_series(1, cardinality(i.keys)) n))
  loop
    execute format('create index if not exists %I on public.%I (%s)', v_index.name, v_index.tab,
      array_to_string(v_index.keys, ', '));
  end loop;
end
$index$;
