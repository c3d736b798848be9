-- Sealed chains: all layers of a chain as one tree that the kernel shows by itself, names from the EROFS image
-- <root>/sealed/<id>.erofs, bytes from the backing files.
CREATE TABLE sealed (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used again: a mount of it may be there longer than its row
    chain BLOB NOT NULL UNIQUE,             -- SHA-256 of its layers' digests and of what their views inherit, bottom first
    bytes INTEGER NOT NULL,                 -- of the image
    inodes INTEGER NOT NULL,
    sealed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE sealed_view (
    sealed INTEGER NOT NULL REFERENCES sealed (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,              -- 0 is the bottom
    view INTEGER NOT NULL REFERENCES layer_view (id),
    PRIMARY KEY (sealed, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX sealed_view_by_view ON sealed_view (view);

-- What the kernel has of a sealed chain, from before it is mounted until nothing in any mount namespace needs it any more. As long
-- as there is a row, what the chain shows stays.
CREATE TABLE sealed_mount (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sealed INTEGER NOT NULL REFERENCES sealed (id) ON DELETE CASCADE,
    boot TEXT NOT NULL,                     -- no mount outlives the boot it was made in
    device TEXT                             -- what the kernel calls the image's file system; NULL: it was about to be mounted
) STRICT;
CREATE INDEX sealed_mount_by_sealed ON sealed_mount (sealed);

-- Which way a mount, and a snapshot that was answered for, went: NULL by way of FUSE, else on this sealed chain.
ALTER TABLE mount ADD COLUMN sealed INTEGER REFERENCES sealed (id);
ALTER TABLE snapshot ADD COLUMN sealed INTEGER REFERENCES sealed (id);
CREATE INDEX mount_by_sealed ON mount (sealed) WHERE sealed IS NOT NULL;
CREATE INDEX snapshot_by_sealed ON snapshot (sealed) WHERE sealed IS NOT NULL;
