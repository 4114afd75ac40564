-- Deploy walrus-bridge:bridge_state to pg
--
-- A row per slot. The bridge never confirms past the ceiling, which it raises ahead of need: a slot found beyond it was
-- re-created or moved by someone else, so there may be a gap.

begin;

set local search_path = pg_catalog, pg_temp;

do $$
begin
    if to_regnamespace('walrus_bridge') is null then
        create schema walrus_bridge;
        comment on schema walrus_bridge is 'walrus-bridge: its own state';
    end if;

    if to_regclass('walrus_bridge.slot') is null then
        create table walrus_bridge.slot (
            slot_name text primary key,
            system_identifier text not null,
            timeline integer not null,
            plugin text not null,
            ceiling pg_lsn not null,
            confirmed pg_lsn not null,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now());
        comment on table walrus_bridge.slot is 'walrus-bridge: what it knows of each replication slot that it streams';
        comment on column walrus_bridge.slot.ceiling is 'The bridge never confirms past this position';
        comment on column walrus_bridge.slot.confirmed is 'What it had confirmed when this row was last written';
    end if;
end
$$;

commit;
