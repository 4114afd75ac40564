-- Revert walrus-bridge:replay_mark from pg
--
-- Refuses while a lagging slot exists that the table tells of: nobody would move it along.

begin;

set local search_path = pg_catalog, pg_temp;

do $$
declare
    live text;
begin
    if obj_description(to_regclass('walrus_bridge.replay_mark'), 'pg_class') like 'walrus-bridge%' then
        lock table walrus_bridge.replay_mark in access exclusive mode;
        select string_agg(distinct s.slot_name::text, ', ') into live
        from walrus_bridge.replay_mark m join pg_replication_slots s on s.slot_name = m.slot_name || '_replay'
        where s.database = current_database();
        if live is not null then
            raise exception using
                errcode = 'object_in_use',
                message = 'walrus_bridge.replay_mark is needed for the replication slot ' || live,
                hint = 'Stop the bridge and drop the slot first: walrus-bridge slot drop.';
        end if;
        drop table walrus_bridge.replay_mark;
    end if;
end
$$;

commit;
