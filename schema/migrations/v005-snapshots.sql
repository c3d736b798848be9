-- containerd's snapshots: what a client of containerd.services.snapshots.v1 has made, lazy layers and ordinary ones.
CREATE TABLE snapshot (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- <root>/snapshots/<id>; never used again, so a directory without a row is waste
    key BLOB NOT NULL UNIQUE,               -- containerd's name for it: any bytes
    parent INTEGER REFERENCES snapshot (id),
    kind INTEGER NOT NULL CHECK (kind IN (1, 2, 3)),    -- 1 view, 2 active, 3 committed
    -- A lazy layer: no directory of its own, <root>/fs/<view> is what overlayfs is given.
    layer INTEGER REFERENCES layer (id),
    view INTEGER REFERENCES layer_view (id),
    -- Why it was not made lazy, though its client offered to have it so.
    refusal TEXT,
    -- What its directory takes on disk, measured when it was committed.
    bytes INTEGER,
    inodes INTEGER,
    created_at INTEGER NOT NULL,            -- nanoseconds since 1970
    updated_at INTEGER NOT NULL,
    CHECK ((layer IS NULL) = (view IS NULL)),
    CHECK (view IS NULL OR kind = 3)
) STRICT;
CREATE INDEX snapshot_by_parent ON snapshot (parent);
CREATE INDEX snapshot_by_layer ON snapshot (layer, id) WHERE layer IS NOT NULL;
CREATE INDEX snapshot_by_view ON snapshot (view) WHERE view IS NOT NULL;

CREATE TABLE snapshot_label (
    snapshot INTEGER NOT NULL REFERENCES snapshot (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (snapshot, name)
) STRICT, WITHOUT ROWID;
-- By chain ID: what containerd asks for after each layer that it need not download.
CREATE INDEX snapshot_by_chain ON snapshot_label (value) WHERE name = 'containerd.io/snapshot.ref';
