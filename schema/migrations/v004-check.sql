-- Where `lamina check --read-data` goes on: a round through all bytes may take several checks.
CREATE TABLE check_position (
    scope TEXT PRIMARY KEY,             -- the reference of the image that is checked; empty: the whole store
    content INTEGER NOT NULL,           -- the last content whose bytes were read in this round; 0: none yet
    round_started_at INTEGER NOT NULL,
    round_finished_at INTEGER           -- when all bytes had been read the last time; NULL: never yet
) STRICT;
