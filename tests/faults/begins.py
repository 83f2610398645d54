"""A witness of begins: each is a row, in order, also of an attempt that was put back later."""

from typing import Final

NOTE_BEGINS: Final = """
create schema if not exists witness;
create table if not exists witness.begins (
  place bigint generated always as identity, generation_id uuid, user_id uuid, at timestamptz default clock_timestamp()
);
create or replace function witness.note() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  insert into witness.begins (generation_id, user_id) values (new.generation_id, new.user_id);
  return null;
end
$$;
create or replace trigger note after insert or update of token on public.ai_retry_open for each row
  when (new.lease_expires_at is not null) execute function witness.note();
"""
"""A renewal, and the last resort, write no token."""
BEGINS: Final = "select generation_id, user_id, at from witness.begins order by at"
