-- The two logins of walrus-bridge, and what they may do. For psql, as a superuser, in the database whose changes are
-- streamed; it may be run again at any time, and should be when the migrations or a role of claims are new:
--
--   psql -X -v ON_ERROR_STOP=1 -v claims_roles=anon,authenticated -f roles.sql "dbname=app"
--
-- Variables (-v name=value); lists are as in an array of PostgreSQL: anon,"Role, with comma"
--   source_login       streams and reads; default walrus_source           (the config's source.connection)
--   judge_login        judges row level security; default walrus_judge    (the config's rls.connection)
--   claims_roles       the roles that claims name; those of the subscriptions that are there come of themselves
--   subscribing_roles  the application's roles that make and end subscriptions
--   migrations         on: the source login runs the migrations itself (`migrations: apply`), and may for that create
--                      schemas in this database; off (the default): an administrator runs `walrus-bridge migrate
--                      deploy`, then this file, and the config says `migrations: check`
--
-- Passwords come from the environment, WALRUS_SOURCE_PASSWORD and WALRUS_JUDGE_PASSWORD; without them the logins keep
-- the one they have, or none (psql's \password sets one without its being logged by the server).

\set ON_ERROR_STOP on
\set QUIET on
\if :{?source_login} \else \set source_login walrus_source \endif
\if :{?judge_login} \else \set judge_login walrus_judge \endif
\if :{?claims_roles} \else \set claims_roles '' \endif
\if :{?subscribing_roles} \else \set subscribing_roles '' \endif
\if :{?migrations} \else \set migrations off \endif
\set source_password `printf %s "$WALRUS_SOURCE_PASSWORD"`
\set judge_password `printf %s "$WALRUS_JUDGE_PASSWORD"`

begin;

set local search_path = pg_catalog, pg_temp;
set local client_min_messages = notice;

select set_config('walrus_bridge.source_login', :'source_login', true),
    set_config('walrus_bridge.judge_login', :'judge_login', true),
    set_config('walrus_bridge.claims_roles', '{' || :'claims_roles' || '}', true),
    set_config('walrus_bridge.subscribing_roles', '{' || :'subscribing_roles' || '}', true),
    set_config('walrus_bridge.migrations', (:'migrations')::boolean::text, true) \g /dev/null

-- The source login. REPLICATION alone already shows it every row of every table, by the stream; pg_read_all_data adds
-- no more than the use of schemas and types, by which it makes values and tests filters, and the reading of
-- realtime.subscription. pg_read_all_stats tells it who holds a slot.
do $$
declare
    login text := current_setting('walrus_bridge.source_login');
begin
    if not exists (select from pg_roles where rolname = login) then
        execute format('create role %I', login);
    end if;
    if exists (select from pg_roles where rolname = login and rolsuper) then
        raise exception '% is a superuser, and the bridge needs none', login
            using hint = 'Name another source_login.';
    end if;
    if exists (select from pg_roles where rolname = login and not (rolcanlogin and rolreplication and rolinherit)) then
        execute format('alter role %I login replication inherit', login);
    end if;
    execute format('grant connect on database %I to %I', current_database(), login);
    execute format('grant pg_read_all_data, pg_read_all_stats to %I', login);

    if current_setting('walrus_bridge.migrations')::boolean then
        execute format('grant create on database %I to %I', current_database(), login);
        if to_regnamespace('realtime') is not null then
            execute format('grant usage, create on schema realtime to %I', login);
        end if;
    end if;
    if to_regclass('walrus_bridge.slot') is not null then
        execute format('grant usage on schema walrus_bridge to %I', login);
        execute format('grant select, insert, update, delete on walrus_bridge.slot to %I', login);
        if to_regclass('walrus_bridge.replay_mark') is not null then
            execute format('grant select, insert, update, delete on walrus_bridge.replay_mark to %I', login);
        end if;
    elsif not current_setting('walrus_bridge.migrations')::boolean then
        raise notice 'walrus_bridge.slot is missing'
            using hint = 'Run `walrus-bridge migrate deploy`, then this file again.';
    end if;
end
$$;

-- The judging login. Policies are other people's code, and a function in one can set the role back to the login: so the
-- login has no rights of its own, and none of its roles' by inheritance. It may only become one of them.
do $$
declare
    login text := current_setting('walrus_bridge.judge_login');
    claimed text[] := current_setting('walrus_bridge.claims_roles')::text[];
    strong text;
    role record;
begin
    if not exists (select from pg_roles where rolname = login) then
        execute format('create role %I', login);
    end if;
    if exists (select from pg_roles where rolname = login
        and (rolsuper or rolreplication or rolbypassrls or rolcreaterole or rolcreatedb))
    then
        raise exception '% has SUPERUSER, REPLICATION, BYPASSRLS, CREATEROLE or CREATEDB, which a policy could use', login
            using hint = 'Name another judge_login.';
    end if;
    if exists (select from pg_roles where rolname = login and not (rolcanlogin and not rolinherit)) then
        execute format('alter role %I login noinherit', login);
    end if;
    -- Temporary tables hold the claims that rows are joined with; policies run read-only, and can make none.
    execute format('grant connect, temporary on database %I to %I', current_database(), login);

    if to_regclass('realtime.subscription') is not null then
        claimed := claimed || array(select r.rolname::text from pg_roles r
            where r.oid in (select claims_role::oid from realtime.subscription));
    end if;
    for role in
        select distinct name, r.rolsuper or r.rolbypassrls as exempt, r.oid is null as absent,
            r.rolreplication or r.rolcreaterole or r.rolcreatedb as dangerous
        from unnest(claimed) as name left join pg_roles r on r.rolname = name
    loop
        if role.absent then
            raise exception 'claims_roles: there is no role %', role.name
                using hint = 'Create it, or correct the name.';
        elsif role.exempt then
            raise notice '% is not subject to row level security, so nothing is judged as it: not granted', role.name;
        elsif role.dangerous then
            raise warning '% has REPLICATION, CREATEROLE or CREATEDB, which a policy could use: not granted', role.name
                using hint = 'Nothing can be judged as this role.';
        elsif current_setting('server_version_num')::int >= 160000 then
            execute format('grant %I to %I with inherit false, set true', role.name, login);
        else
            execute format('grant %I to %I', role.name, login);
        end if;
    end loop;

    select string_agg(r.rolname, ', ' order by r.rolname) into strong
    from pg_auth_members m join pg_roles r on r.oid = m.roleid join pg_roles j on j.oid = m.member
    where j.rolname = login and r.rolname <> all (claimed);
    if strong is not null then
        raise warning '% is a member of % too, which neither a subscription nor claims_roles names', login, strong
            using hint = 'Revoke what is not needed.';
    end if;
end
$$;

-- The application's roles: a subscription is a row.
do $$
declare
    name text;
begin
    foreach name in array current_setting('walrus_bridge.subscribing_roles')::text[] loop
        if to_regclass('realtime.subscription') is null then
            raise exception 'realtime.subscription is missing'
                using hint = 'Run `walrus-bridge migrate deploy`, then this file again.';
        end if;
        execute format('grant usage on schema realtime to %I', name);
        execute format('grant select, insert, update, delete on realtime.subscription to %I', name);
    end loop;
end
$$;

select format('alter role %I password %L', :'source_login', :'source_password') where :'source_password' <> ''
union all
select format('alter role %I password %L', :'judge_login', :'judge_password') where :'judge_password' <> '' \gexec

commit;

\echo source.connection logs in as :source_login, rls.connection as :judge_login
