-- Verify walrus-bridge:replay_mark on pg

begin;

set local search_path = pg_catalog, pg_temp;

do $$
declare
    missing text;
begin
    if to_regclass('walrus_bridge.replay_mark') is null then
        raise exception 'the table walrus_bridge.replay_mark is missing';
    end if;
    select string_agg(wanted, ', ') into missing
    from unnest(array['slot_name', 'lsn', 'marked_at']) as wanted
    where wanted not in (
        select attname from pg_attribute
        where attrelid = 'walrus_bridge.replay_mark'::regclass and attnum > 0 and not attisdropped);
    if missing is not null then
        raise exception 'the table walrus_bridge.replay_mark lacks %', missing;
    end if;
end
$$;

rollback;
