-- Where a stream may go on after a power cut. stream.state is the latest; this table has those before it, back to the last one
-- whose files are on disk for certain: sync names the syncfs that it waits for, as content.sync does.
CREATE TABLE stream_resume (
    stream INTEGER NOT NULL REFERENCES stream (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,            -- the order in which they were recorded
    output INTEGER NOT NULL,            -- the checkpoint to decompress from
    entries INTEGER NOT NULL,           -- the last stream_entry.number that belongs to it
    sync INTEGER NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (stream, number)
) STRICT, WITHOUT ROWID;
