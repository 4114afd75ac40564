"""What each decision costs the original (supabase/walrus): for each row and subscriber its role and claims are set, and
a prepared query looks whether the row is there for it. Only that, so it flatters the original."""

import time

import msgspec
import psycopg

from tests.benchmarks.policies import ROLE
from tests.servers.postgres import Database

FUNCTION = """
create function ask_each(keys bigint[], claims text[]) returns bigint language plpgsql as $$
declare
  key bigint;
  claim text;
  found boolean;
  shown bigint := 0;
begin
  execute 'prepare walrus_rls_stmt (bigint) as select exists (select 1 from note where id = $1)';
  foreach key in array keys loop
    foreach claim in array claims loop
      perform set_config('role', 'ROLE', true), set_config('request.jwt.claims', claim, true);
      execute format('execute walrus_rls_stmt(%s)', key) into found;
      shown := shown + found::int;
    end loop;
  end loop;
  perform set_config('role', null, true);
  deallocate walrus_rls_stmt;
  return shown;
end $$;
""".replace("ROLE", ROLE)


class Original(msgspec.Struct, frozen=True):
    rows: int
    """The sample."""
    seconds: float


def ask_each(database: Database, subscribers: int, decisions: int, cap_seconds: float) -> Original | None:
    """On as many rows as make about so many decisions; None: not within the cap."""
    rows = max(1, decisions // subscribers)
    with database.connect() as connection:
        claims = [row[0] for row in connection.execute("select claims::text from realtime.subscription order by id")]
        keys = [row[0] for row in connection.execute("select id from note order by id limit %s", (rows,))]
        connection.execute("select set_config('statement_timeout', %s, false)", (f"{cap_seconds * 1000:.0f}",))
        began = time.monotonic()
        try:
            connection.execute("select ask_each(%s, %s)", (keys, claims))
        except psycopg.errors.QueryCanceled:
            return None
        return Original(len(keys), time.monotonic() - began)
