-- Deploy walrus-bridge:replay_mark to pg
--
-- When the WAL was where: by it a slot that lags by a time (source.replay_window) is moved along, and a time is found in
-- the WAL. Some hundred rows for each slot.

begin;

set local search_path = pg_catalog, pg_temp;

do $$
begin
    if to_regclass('walrus_bridge.replay_mark') is null then
        create table walrus_bridge.replay_mark (
            slot_name text not null,
            lsn pg_lsn not null,
            marked_at timestamptz not null,
            primary key (slot_name, lsn));
        comment on table walrus_bridge.replay_mark is 'walrus-bridge: when the WAL was where, for replay';
        comment on column walrus_bridge.replay_mark.lsn is 'What was committed at marked_at or later has no lower commit LSN';
    end if;
end
$$;

commit;
