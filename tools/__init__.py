"""What this repository is built with: above all the local Supabase stack, without Docker. Nothing of it is published.

In a test, take the `stack` fixture; it marks the test with `stack` by itself:

    def test_something(stack: Stack) -> None:
        user = stack.sign_up("ada@example.com", "correct horse")        # .id, .access_token
        client = supabase.create_client(stack.url, stack.secret_key)    # RPC and tables as service_role
        psycopg.connect(stack.database_url)                             # superuser, past the Data API

The session's stack has the migrations of `supabase/migrations`. It is one database for all tests: use your own users.
For a database of one's own there are the fixtures `migrated_database` and `bare_database` (a URL each, about 50 ms), or
`stack.create_database(name, migrated=...)`. These are reached by psycopg alone. The Data API reads the schema once:
after changing tables or functions of the main database call `stack.restart_data_api()`.

Besides (`tools.stack`, `tools.push`):

- `running_stack(migrations=DIR or None, postgres_settings={...})` runs another stack of one's own.
- `stack.restart_postgres(immediate=True)` is a crash of the database, `stack.restart_data_api()` one of the API.
- `apply_migrations(url, directory, force=..., on_notice=...)` does what `supabase db push` does.
- `grant_legacy_default_privileges(url)` makes a bare database an older Supabase project's; call it before migrations.

`python -m tools.stack up` starts one that stays (`.stack/env` says where), `down` removes it. With
`TEST_STACK=.stack/env` the tests use that one.
"""
