-- Verify walrus-bridge:bridge_state on pg

begin;

set local search_path = pg_catalog, pg_temp;

do $$
declare
    missing text;
begin
    if to_regclass('walrus_bridge.slot') is null then
        raise exception 'the table walrus_bridge.slot is missing';
    end if;
    select string_agg(wanted, ', ') into missing
    from unnest(array['slot_name', 'system_identifier', 'timeline', 'plugin', 'ceiling', 'confirmed', 'created_at',
        'updated_at']) as wanted
    where wanted not in (
        select attname from pg_attribute
        where attrelid = 'walrus_bridge.slot'::regclass and attnum > 0 and not attisdropped);
    if missing is not null then
        raise exception 'the table walrus_bridge.slot lacks %', missing;
    end if;
end
$$;

rollback;
