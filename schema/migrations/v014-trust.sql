-- What one image may do to another: where the bytes of a layer are asked for, what was proven of blobs, tables of contents and
-- tars, and which layers are served to nobody any more.

-- A layer is a blob, a table of contents, the tar that its image says that it is, and the repository that it was found in. Of one blob there are several where images name
-- several tables of contents or tars for it, or where they come from several repositories: what one image is asked for with is nobody else's.
ALTER TABLE layer ADD COLUMN origin TEXT NOT NULL DEFAULT '';
-- Whether its files are its repository's own, and not shared with those of others.
ALTER TABLE layer ADD COLUMN isolated INTEGER NOT NULL DEFAULT 0;
-- When it was found to be another layer than it is said to be, and how; nothing of it is served since.
ALTER TABLE layer ADD COLUMN quarantined_at INTEGER;
ALTER TABLE layer ADD COLUMN quarantine TEXT;
UPDATE layer SET origin = coalesce(
    (SELECT s.location FROM layer_source AS s WHERE s.layer = layer.id AND s.location NOT LIKE 'url:%' ORDER BY s.added DESC LIMIT 1),
    (SELECT s.location FROM layer_source AS s WHERE s.layer = layer.id ORDER BY s.added DESC LIMIT 1), '');
DELETE FROM layer_source
WHERE location NOT LIKE 'url:%' AND location <> (SELECT l.origin FROM layer AS l WHERE l.id = layer_source.layer);
UPDATE layer SET quarantined_at = coalesce(diff_id_at, indexed_at),
    quarantine = 'its tar has another digest than the image''s configuration says, as an earlier version found; after lamina rm and a new pull it is looked at anew'
WHERE diff_id_state = 2;

-- One blob may have several rows now. The constraint is changed in the text (https://sqlite.org/lang_altertable.html#otheralter), and
-- its index made anew. The columns have to be these, in this order, or the migration fails and nothing is changed.
CREATE TEMP TABLE layer_columns (columns TEXT NOT NULL CHECK (
    columns = 'id,digest,diff_id,toc_digest,toc_checksum,format,size,root,first_inode,last_inode,prioritized_end,indexed_at,'
        || 'toc_proof,blob_proven_at,chunks_proven_at,files_proven_at,diff_id_state,diff_id_at,computed_diff_id,members_end,'
        || 'tar_split_offset,tar_split_size,origin,isolated,quarantined_at,quarantine'));
INSERT INTO layer_columns SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info('layer') ORDER BY cid);
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = 'CREATE TABLE layer (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    diff_id BLOB CHECK (length(diff_id) = 32),
    toc_digest BLOB CHECK (length(toc_digest) = 32),
    toc_checksum BLOB CHECK (length(toc_checksum) = 32),
    format INTEGER NOT NULL,
    size INTEGER NOT NULL,
    root INTEGER NOT NULL,
    first_inode INTEGER NOT NULL,
    last_inode INTEGER NOT NULL,
    prioritized_end INTEGER,
    indexed_at INTEGER NOT NULL,
    toc_proof INTEGER NOT NULL DEFAULT 0 CHECK (toc_proof IN (0, 1, 2, 3)),
    blob_proven_at INTEGER,
    chunks_proven_at INTEGER,
    files_proven_at INTEGER,
    diff_id_state INTEGER NOT NULL DEFAULT 0 CHECK (diff_id_state IN (0, 1, 2, 3, 4)),
    diff_id_at INTEGER,
    computed_diff_id BLOB CHECK (length(computed_diff_id) = 32),
    members_end INTEGER,
    tar_split_offset INTEGER,
    tar_split_size INTEGER,
    origin TEXT NOT NULL DEFAULT '''',
    isolated INTEGER NOT NULL DEFAULT 0,
    quarantined_at INTEGER,
    quarantine TEXT,
    UNIQUE (digest, origin, toc_digest, diff_id)
) STRICT'
WHERE type = 'table' AND name = 'layer';
CREATE TABLE layer_checks (id INTEGER PRIMARY KEY) STRICT;
DROP TABLE layer_checks;
PRAGMA writable_schema = RESET;
REINDEX layer;
INSERT INTO layer_columns SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info('layer') ORDER BY cid);
DROP TABLE layer_columns;
-- A blob without a table of contents has no NULL twice.
CREATE UNIQUE INDEX layer_whole ON layer (digest, origin) WHERE toc_digest IS NULL;
-- Which layer an inode is of.
CREATE INDEX layer_by_inode ON layer (first_inode);
CREATE INDEX layer_quarantined ON layer (id) WHERE quarantined_at IS NOT NULL;

-- The stream that a blob was read as goes with the last of its layers.
DROP TRIGGER layer_stream;
CREATE TRIGGER layer_stream AFTER DELETE ON layer BEGIN
    DELETE FROM stream WHERE digest = OLD.digest AND NOT EXISTS (SELECT 1 FROM layer WHERE digest = OLD.digest);
END;

-- Files of one repository's own are found by nobody who looks for their digest.
ALTER TABLE content ADD COLUMN isolated INTEGER NOT NULL DEFAULT 0;

-- What was proven once is known as long as there is the store: which tar a blob with a table of contents is.
CREATE TABLE proven_layer (
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    toc_digest BLOB NOT NULL,           -- empty: it has none
    diff_id BLOB NOT NULL CHECK (length(diff_id) = 32),
    proven_at INTEGER NOT NULL,
    PRIMARY KEY (digest, toc_digest, diff_id)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO proven_layer
SELECT digest, coalesce(toc_digest, x''), diff_id, coalesce(diff_id_at, indexed_at) FROM layer
WHERE diff_id_state = 1 AND diff_id IS NOT NULL;

-- The one table of contents of each blob that was hashed as a whole: another one is a lie.
CREATE TABLE blob_toc (
    digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
    toc_digest BLOB NOT NULL CHECK (length(toc_digest) = 32),
    toc_checksum BLOB CHECK (length(toc_checksum) = 32)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO blob_toc
SELECT digest, toc_digest, toc_checksum FROM layer
WHERE toc_proof = 2 AND toc_digest IS NOT NULL AND format <> 4;
