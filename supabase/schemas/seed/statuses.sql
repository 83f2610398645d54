-- A check on generations.status that refuses one of our statuses is widened: what it allowed stays allowed.

do $widen$
declare
  v_check record;
  v_allows_all boolean;
begin
  for v_check in
    select c.conname, pg_catalog.pg_get_expr(c.conbin, c.conrelid) as expression
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attname = 'status'
    where c.conrelid = 'public.generations'::regclass and c.contype = 'c' and c.conkey = array[a.attnum]
  loop
    execute format(
      'select bool_and(%s) from unnest(array[''queued'', ''processing'', ''success'', ''error'', ''timeout'']) as status',
      v_check.expression) into v_allows_all;
    if v_allows_all is false then
      execute format(
        'alter table public.generations drop constraint %1$I, add constraint %1$I check ((%2$s) or status in '
        '(''queued'', ''processing'', ''success'', ''error'', ''timeout'')) not valid',
        v_check.conname, v_check.expression);
    end if;
  end loop;
end
$widen$;
