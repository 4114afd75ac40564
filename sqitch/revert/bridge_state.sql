-- Revert walrus-bridge:bridge_state from pg
--
-- Refuses while a slot exists that the table tells of: without it, a slot re-created by someone else cannot be seen.

begin;

set local search_path = pg_catalog, pg_temp;

do $$
declare
    live text;
begin
    if obj_description(to_regclass('walrus_bridge.slot'), 'pg_class') like 'walrus-bridge%' then
        lock table walrus_bridge.slot in access exclusive mode;
        select string_agg(slot_name, ', ' order by slot_name) into live
        from walrus_bridge.slot join pg_replication_slots using (slot_name)
        where database = current_database();
        if live is not null then
            raise exception using
                errcode = 'object_in_use',
                message = 'walrus_bridge.slot is needed for the replication slot ' || live,
                hint = 'Stop the bridge and drop the slot first: walrus-bridge slot drop.';
        end if;
        drop table walrus_bridge.slot;
    end if;
    if obj_description(to_regnamespace('walrus_bridge'), 'pg_namespace') like 'walrus-bridge%' then
        begin
            drop schema walrus_bridge;
        exception when dependent_objects_still_exist then
            raise notice 'the schema walrus_bridge stays: it holds what walrus-bridge did not make';
        end;
    end if;
end
$$;

commit;
