-- What a content's row has to be, said in what costs nothing while a hundred thousand are inserted. A function in a CHECK
-- can fail in the middle of a statement: SQLite then keeps a copy of each page that the statement changes, and in an index
-- of digests every row changes another one. IN looks each value up in a table of its own. That a digest has 32 bytes is left
-- to the program, which has a type for it. What is in the rows stays as it is, so the text alone is changed
-- (https://sqlite.org/lang_altertable.html#otheralter). The new text is given as a whole, whatever blanks the old one has; the
-- columns have to be these, in this order, or the migration fails and nothing is changed.
CREATE TEMP TABLE content_columns (columns TEXT NOT NULL CHECK (
    columns = 'id,digest,claim,size,state,proof,sync,holes,used_at,opens'));
INSERT INTO content_columns SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info('content') ORDER BY cid);
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = 'CREATE TABLE content (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    claim BLOB NOT NULL DEFAULT x'''',
    size INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 2),    -- 0 absent, 1 partial, 2 merged
    proof INTEGER NOT NULL DEFAULT 0 CHECK (proof BETWEEN 0 AND 2),    -- 0 claimed, 1 proven, 2 disproven: the layer lied
    sync INTEGER NOT NULL DEFAULT 0,    -- the syncfs that its last write waits for
    holes INTEGER NOT NULL DEFAULT 0,   -- bytes of the file that take no space, as they were verified to be zeros
    used_at INTEGER NOT NULL DEFAULT 0,
    opens INTEGER NOT NULL DEFAULT 0,
    UNIQUE (digest, claim)
) STRICT'
WHERE type = 'table' AND name = 'content';
-- Other connections read the schema again because a table comes and goes, this one because it is told to.
CREATE TABLE content_checks (id INTEGER PRIMARY KEY) STRICT;
DROP TABLE content_checks;
PRAGMA writable_schema = RESET;
INSERT INTO content_columns SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info('content') ORDER BY cid);
DROP TABLE content_columns;
