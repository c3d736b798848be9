-- lamina's index, version 1.
--
-- Tables are lamina's own and may change with any migration; the views in views.sql are the interface.
-- Digests are 32-byte BLOBs, names and symlink targets are BLOBs because Linux names are bytes,
-- sizes and offsets are bytes, times are seconds since 1970.

-- One row: what is true of the store as a whole.
CREATE TABLE store (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- The boot (/proc/sys/kernel/random/boot_id) in which everything that is not yet durable was written. Within one boot
    -- the page cache survives any crash of the process; in another boot the bytes are checked again before they are served.
    boot TEXT NOT NULL,
    -- The next inode number. Numbers are never used again: the kernel caches by them without a time limit.
    next_inode INTEGER NOT NULL,
    -- SHA-256 of the views.sql that made the views.
    views BLOB
) STRICT;

-- One row a layer blob.
CREATE TABLE layer (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    diff_id BLOB CHECK (length(diff_id) = 32),
    toc_digest BLOB CHECK (length(toc_digest) = 32),
    -- SHA-256 of the compressed TOC, by which the manifests of zstd:chunked vouch for it.
    toc_checksum BLOB CHECK (length(toc_checksum) = 32),
    -- 1 eStargz, 2 zstd:chunked, 3 stargz, 4 eStargz with external TOC, 5 tar+gzip, 6 tar+zstd, 7 tar
    format INTEGER NOT NULL,
    size INTEGER NOT NULL,              -- of the compressed blob
    root INTEGER NOT NULL,              -- inode of the layer's root directory
    first_inode INTEGER NOT NULL,       -- its inodes are numbered without a gap
    last_inode INTEGER NOT NULL,
    prioritized_end INTEGER,            -- blob offset of the prefetch landmark: members before it come first
    indexed_at INTEGER NOT NULL,
    -- The ledger: what has been proven of the layer, and when; NULL: not yet.
    -- What ties the TOC to the manifest: 0 nothing yet, 1 the manifest names its digest, 2 the blob that it stands in was
    -- hashed as a whole, 3 there is none: the index was made of the hashed blob itself.
    toc_proof INTEGER NOT NULL DEFAULT 0 CHECK (toc_proof IN (0, 1, 2, 3)),
    blob_proven_at INTEGER,             -- the whole blob was hashed and has its digest
    chunks_proven_at INTEGER,           -- every chunk has landed, each verified
    files_proven_at INTEGER,            -- every file has its whole-file digest
    -- 0 not known yet, 1 proven, 2 the tar has another digest: computed_diff_id, 3 cannot be told without fetching again
    diff_id_state INTEGER NOT NULL DEFAULT 0 CHECK (diff_id_state IN (0, 1, 2, 3)),
    diff_id_at INTEGER,
    computed_diff_id BLOB CHECK (length(computed_diff_id) = 32),
    -- For telling the diff ID later: where the members end, and where the layer's own tar-split stands.
    members_end INTEGER,
    tar_split_offset INTEGER,
    tar_split_size INTEGER              -- compressed
) STRICT;

-- Parts of a layer's tar that are in no file (headers, padding), kept from the fetched members until the diff ID has been
-- told from them and the files. Compressed by zstd; gone when it has been told.
CREATE TABLE tar_part (
    layer INTEGER NOT NULL REFERENCES layer (id) ON DELETE CASCADE,
    blob_offset INTEGER NOT NULL,       -- where the range of the blob begins that these bytes are of
    blob_size INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (layer, blob_offset)
) STRICT, WITHOUT ROWID;

-- Where a layer's blob can be had: 'oci:/dir' or 'http://host/repository'.
CREATE TABLE layer_source (
    layer INTEGER NOT NULL REFERENCES layer (id) ON DELETE CASCADE,
    location TEXT NOT NULL,
    added INTEGER NOT NULL,             -- the highest of its layer is the newest: it is tried first
    PRIMARY KEY (layer, location)
) STRICT, WITHOUT ROWID;

CREATE TABLE image (
    id INTEGER PRIMARY KEY,
    reference TEXT NOT NULL UNIQUE,
    manifest_digest BLOB NOT NULL CHECK (length(manifest_digest) = 32),
    platform TEXT NOT NULL,
    config BLOB NOT NULL,               -- the image configuration's JSON, byte for byte
    pulled_at INTEGER NOT NULL,
    pinned INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The directory <root>/fs/<id>: one layer as overlayfs is given it. Directories that a layer does not list take their
-- attributes from the layers below, so a layer that has such directories has a view for each chain below it.
CREATE TABLE layer_view (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    layer INTEGER NOT NULL REFERENCES layer (id) ON DELETE CASCADE,
    inherits BLOB NOT NULL,             -- SHA-256 of the inherited attributes; empty: the layer's own inodes serve
    root INTEGER NOT NULL,
    first_inode INTEGER,                -- the directories cloned for this view; NULL where nothing is inherited
    last_inode INTEGER,
    UNIQUE (layer, inherits)
) STRICT;

CREATE TABLE image_layer (
    image INTEGER NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,          -- 0 is the bottom
    layer INTEGER NOT NULL REFERENCES layer (id),
    view INTEGER NOT NULL REFERENCES layer_view (id),
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layer_by_layer ON image_layer (layer);

-- The inode number of a file in the mount is inode.id; 1 is the root of the mount.
CREATE TABLE inode (
    id INTEGER PRIMARY KEY,
    mode INTEGER NOT NULL,              -- type and permissions, as in stat(2)
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    device INTEGER NOT NULL,            -- dev_t of a device node
    nlink INTEGER NOT NULL,
    content INTEGER,                    -- content.id; no REFERENCES, whose check would want an index on this column
    target BLOB                         -- of a symbolic link
) STRICT;

CREATE TABLE dirent (
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    inode INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE xattr (
    inode INTEGER NOT NULL,
    name BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (inode, name)
) STRICT, WITHOUT ROWID;

-- Directories that their layer does not list, which is why a view may have to give them other attributes.
CREATE TABLE implicit_directory (
    inode INTEGER PRIMARY KEY,
    path BLOB NOT NULL                  -- within the layer, without a leading slash; empty for the layer's root
) STRICT;

-- The bytes of one regular file. A file of one chunk is named by its digest alone, since the chunk proves it. For a file
-- of several chunks the whole-file digest is a claim until it is proven, so layers whose chunk lists differ are kept
-- apart: claim is the SHA-256 of the chunk list.
CREATE TABLE content (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    claim BLOB NOT NULL DEFAULT x'',
    size INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0 CHECK (state IN (0, 1, 2)),    -- 0 absent, 1 partial, 2 merged
    proof INTEGER NOT NULL DEFAULT 0 CHECK (proof IN (0, 1, 2)),    -- 0 claimed, 1 proven, 2 disproven: the layer lied
    durable INTEGER NOT NULL DEFAULT 0,                             -- on disk for certain (syncfs after the last write)
    holes INTEGER NOT NULL DEFAULT 0,   -- bytes of the file that take no space, as they were verified to be zeros
    UNIQUE (digest, claim)
) STRICT;
CREATE INDEX content_volatile ON content (id) WHERE durable = 0 AND state > 0;

-- The chunks of contents that have more than one.
CREATE TABLE chunk (
    content INTEGER NOT NULL REFERENCES content (id) ON DELETE CASCADE,
    offset INTEGER NOT NULL,
    size INTEGER NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    landed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (content, offset)
) STRICT, WITHOUT ROWID;
CREATE INDEX chunk_by_digest ON chunk (digest);

-- Where a chunk's bytes are: a compressed range (member) of a layer's blob, and the offset within what it decompresses to.
-- In a layer without a table of contents: where in its tar the file's first header is, and how far it is to the next file's.
CREATE TABLE chunk_source (
    layer INTEGER NOT NULL REFERENCES layer (id) ON DELETE CASCADE,
    blob_offset INTEGER NOT NULL,
    inner_offset INTEGER NOT NULL,
    content INTEGER NOT NULL REFERENCES content (id),
    offset INTEGER NOT NULL,            -- in the file
    blob_size INTEGER NOT NULL,         -- of the member
    PRIMARY KEY (layer, blob_offset, inner_offset, content, offset)
) STRICT, WITHOUT ROWID;
CREATE INDEX chunk_source_by_content ON chunk_source (content, offset);

-- A layer without a table of contents, read as one stream. While it is under way, what goes on after a kill; afterwards the
-- owner of its checkpoints. By digest, as the layer has no row before its last byte was verified.
CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    boot TEXT NOT NULL,                 -- in which the state was recorded: what was written outside the index may be lost in another
    state BLOB                          -- where the reader stands: lamina's own; NULL when the layer is indexed
) STRICT;
CREATE TRIGGER layer_stream AFTER DELETE ON layer BEGIN
    DELETE FROM stream WHERE digest = OLD.digest;
END;

-- What a stream's tar said of its entries so far, in order; gone when the layer is indexed.
CREATE TABLE stream_entry (
    stream INTEGER NOT NULL REFERENCES stream (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    lines BLOB NOT NULL,                -- lines of a table of contents, compressed by zstd
    PRIMARY KEY (stream, number)
) STRICT, WITHOUT ROWID;

-- The contents that a stream has brought, until its layer is indexed: what goes with it when the layer turns out to be wrong.
CREATE TABLE stream_content (
    stream INTEGER NOT NULL REFERENCES stream (id) ON DELETE CASCADE,
    content INTEGER NOT NULL,
    PRIMARY KEY (stream, content)
) STRICT, WITHOUT ROWID;

-- Places in a blob from which it can be decompressed without what is before them: what a stream goes on from, and what a file
-- that was evicted is fetched again from.
CREATE TABLE checkpoint (
    stream INTEGER NOT NULL REFERENCES stream (id) ON DELETE CASCADE,
    output INTEGER NOT NULL,            -- offset in the tar of the first byte that comes out
    blob_offset INTEGER NOT NULL,       -- offset in the blob of the first byte that goes in
    decoder BLOB NOT NULL,              -- bit position, CRC and window of a gzip member; empty where one begins
    PRIMARY KEY (stream, output)
) STRICT, WITHOUT ROWID;

-- Images mounted by name, so that a server that starts again finds them.
CREATE TABLE mount (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    target TEXT NOT NULL UNIQUE,
    image INTEGER NOT NULL REFERENCES image (id),
    upper TEXT,                         -- the writable directory of a mount with --rw
    mounted_at INTEGER NOT NULL
) STRICT;

INSERT INTO store (id, boot, next_inode) VALUES (1, '', 2);
-- The root of the mount; its directory entries are the views.
INSERT INTO inode (id, mode, uid, gid, size, mtime, mtime_ns, device, nlink) VALUES (1, 16877, 0, 0, 0, 0, 0, 0, 2);
