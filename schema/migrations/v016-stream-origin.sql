-- A stream is of one repository: what that has sent is no beginning of what another one sends. Streams of earlier versions are
-- nobody's: those that were under way begin anew, and those that have ended keep their checkpoints.
ALTER TABLE stream ADD COLUMN origin TEXT;

-- The constraint is changed in the text, as in version 14. The columns have to be these, in this order, or the migration fails and
-- nothing is changed.
CREATE TEMP TABLE stream_columns (columns TEXT NOT NULL CHECK (columns = 'id,digest,boot,state,content_group,origin'));
INSERT INTO stream_columns SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info('stream') ORDER BY cid);
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = 'CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    boot TEXT NOT NULL,
    state BLOB,
    content_group INTEGER,
    origin TEXT,
    UNIQUE (digest, origin)
) STRICT'
WHERE type = 'table' AND name = 'stream';
CREATE TABLE stream_checks (id INTEGER PRIMARY KEY) STRICT;
DROP TABLE stream_checks;
PRAGMA writable_schema = RESET;
REINDEX stream;
INSERT INTO stream_columns SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info('stream') ORDER BY cid);
DROP TABLE stream_columns;

-- The checkpoints of a blob that was hashed are of use to all layers of it, and go with the last one. A stream that is under way is
-- no matter of other repositories' layers.
DROP TRIGGER layer_stream;
CREATE TRIGGER layer_stream AFTER DELETE ON layer BEGIN
    DELETE FROM stream
    WHERE digest = OLD.digest AND state IS NULL AND NOT EXISTS (SELECT 1 FROM layer WHERE digest = OLD.digest);
END;
