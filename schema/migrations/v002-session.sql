-- The connection to the kernel that the mount goes through. It outlives the process that began it, as somebody else holds
-- its descriptor; the next process needs what the kernel said first.
CREATE TABLE session (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    boot TEXT NOT NULL,                 -- no connection outlives the boot it was made in
    connection INTEGER NOT NULL,        -- the minor device number of the mount, as in /sys/fs/fuse/connections
    init BLOB NOT NULL,                 -- the kernel's FUSE_INIT request, header included
    passthrough INTEGER NOT NULL,       -- whether it was agreed on
    started_at INTEGER NOT NULL
) STRICT;
