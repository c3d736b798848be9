-- What a content's row has to be, said in what costs nothing while a hundred thousand are inserted. A function in a CHECK
-- can fail in the middle of a statement: SQLite then keeps a copy of each page that the statement changes, and in an index
-- of digests every row changes another one. IN looks each value up in a table of its own. That a digest has 32 bytes is left
-- to the program, which has a type for it. What is in the rows stays as it is, so the text alone is changed
-- (https://sqlite.org/lang_altertable.html#otheralter).
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql =
    replace(replace(replace(sql,
        'digest BLOB NOT NULL CHECK (length(digest) = 32)', 'digest BLOB NOT NULL'),
        'CHECK (state IN (0, 1, 2))', 'CHECK (state BETWEEN 0 AND 2)'),
        'CHECK (proof IN (0, 1, 2))', 'CHECK (proof BETWEEN 0 AND 2)')
WHERE type = 'table' AND name = 'content';
-- Other connections read the schema again because a table comes and goes, this one because it is told to.
CREATE TABLE content_checks (id INTEGER PRIMARY KEY) STRICT;
DROP TABLE content_checks;
PRAGMA writable_schema = RESET;
