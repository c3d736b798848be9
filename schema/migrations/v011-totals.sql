-- What is asked often is kept, and not counted: how much of an image, a layer and the store is here. And where a directory is,
-- so that a path is found without walking a tree.

-- Contents that the same layers have are one group, and its row has their totals. A layer's, an image's and the store's totals
-- are sums over groups, of which there are few. A layer that is imported takes the contents that it shares out of their groups, into
-- new ones that it has too. Group 0 has the contents of no layer.
CREATE TABLE content_group (
    id INTEGER PRIMARY KEY,
    first_content INTEGER,              -- its contents are numbered between these two, others may be in between
    last_content INTEGER,
    contents INTEGER NOT NULL DEFAULT 0,
    merged INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    landed_bytes INTEGER NOT NULL DEFAULT 0,
    allocated_bytes INTEGER NOT NULL DEFAULT 0,         -- landed_bytes of each content in whole blocks
    file_bytes INTEGER NOT NULL DEFAULT 0,              -- each content as many times as files have it
    landed_file_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO content_group (id) VALUES (0);

CREATE TABLE layer_group (
    layer INTEGER NOT NULL REFERENCES layer (id) ON DELETE CASCADE,
    content_group INTEGER NOT NULL REFERENCES content_group (id) ON DELETE CASCADE,
    PRIMARY KEY (layer, content_group)
) STRICT, WITHOUT ROWID;
CREATE INDEX layer_group_by_group ON layer_group (content_group);

ALTER TABLE content ADD COLUMN landed INTEGER NOT NULL DEFAULT 0;           -- of a partial content: the bytes of its landed chunks
ALTER TABLE content ADD COLUMN files INTEGER NOT NULL DEFAULT 1;            -- inodes of all layers that have it
ALTER TABLE content ADD COLUMN content_group INTEGER NOT NULL DEFAULT 0;
CREATE INDEX content_partial ON content (state) WHERE state = 1;

-- The contents of a layer that not exactly one of its inodes has.
CREATE TABLE repeated_content (
    layer INTEGER NOT NULL REFERENCES layer (id) ON DELETE CASCADE,
    content INTEGER NOT NULL,
    inodes INTEGER NOT NULL,
    PRIMARY KEY (layer, content)
) STRICT, WITHOUT ROWID;

-- Digests of which several contents are proven and here: one file under several names, counted once. What the groups count
-- too much.
CREATE TABLE proven_twin (
    digest BLOB NOT NULL PRIMARY KEY,
    landed_bytes INTEGER NOT NULL,
    allocated_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX content_claimed ON content (digest) WHERE claim <> x'';

-- What a stream brings is a group from the start: that of its layer, once it is one.
ALTER TABLE stream ADD COLUMN content_group INTEGER;

-- The directories of layers.
CREATE TABLE directory (
    inode INTEGER PRIMARY KEY,
    path BLOB NOT NULL                  -- within the layer, without a leading slash; empty for the layer's root
) STRICT;

-- How far before an inode the directory is that its first name is in; NULL: it is a root, or a directory of a view.
ALTER TABLE inode ADD COLUMN up INTEGER;

-- Which view a layer has above others: found once, as neither layers nor views ever change.
CREATE TABLE layer_chain (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    below INTEGER REFERENCES layer_chain (id) ON DELETE CASCADE,        -- NULL: the lowest layer
    layer INTEGER NOT NULL,
    view INTEGER NOT NULL REFERENCES layer_view (id) ON DELETE CASCADE,
    UNIQUE (below, layer)
) STRICT;
CREATE INDEX layer_chain_by_view ON layer_chain (view);

-- Of the stores from before.

WITH RECURSIVE tree (inode, path) AS (
    SELECT root, x'' FROM layer
    UNION ALL
    SELECT d.inode, CAST(CASE t.path WHEN x'' THEN d.name ELSE t.path || x'2f' || d.name END AS BLOB)
    FROM tree AS t JOIN dirent AS d ON d.parent = t.inode JOIN inode AS i ON i.id = d.inode
    WHERE i.mode & 61440 = 16384
)
INSERT INTO directory SELECT inode, path FROM tree ORDER BY inode;

CREATE TEMP TABLE first_name (inode INTEGER PRIMARY KEY, parent INTEGER NOT NULL);
INSERT OR IGNORE INTO first_name
SELECT d.inode, d.parent FROM layer AS l JOIN dirent AS d ON d.parent BETWEEN l.first_inode AND l.last_inode;
UPDATE inode SET up = inode.id - f.parent FROM first_name AS f WHERE f.inode = inode.id;
DROP TABLE first_name;

-- The layers of each content, as text: contents of one text are a group.
CREATE TEMP TABLE layer_inodes (content INTEGER, layer INTEGER, inodes INTEGER, PRIMARY KEY (content, layer)) WITHOUT ROWID;
INSERT INTO layer_inodes
SELECT i.content, l.id, count(*) FROM layer AS l JOIN inode AS i ON i.id BETWEEN l.first_inode AND l.last_inode
WHERE i.content IS NOT NULL GROUP BY l.id, i.content;
-- What is of a layer and of none of its files.
INSERT OR IGNORE INTO layer_inodes SELECT DISTINCT content, layer, 0 FROM chunk_source;
CREATE TEMP TABLE content_layers (content INTEGER PRIMARY KEY, layers TEXT NOT NULL, files INTEGER NOT NULL);
INSERT INTO content_layers
SELECT content, group_concat(layer), sum(inodes) FROM (SELECT * FROM layer_inodes ORDER BY content, layer) GROUP BY content;
CREATE TEMP TABLE new_group (layers TEXT PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO new_group SELECT layers, row_number() OVER (ORDER BY min(content)) FROM content_layers GROUP BY layers;
UPDATE content SET content_group = n.id, files = m.files
FROM content_layers AS m JOIN new_group AS n ON n.layers = m.layers WHERE m.content = content.id;
UPDATE content SET landed = (SELECT coalesce(sum(size), 0) FROM chunk WHERE chunk.content = content.id AND landed = 1)
WHERE state = 1;
INSERT INTO content_group (id) SELECT id FROM new_group ORDER BY id;
INSERT INTO layer_group
SELECT DISTINCT m.layer, n.id FROM new_group AS n
JOIN (SELECT layers, min(content) AS content FROM content_layers GROUP BY layers) AS x ON x.layers = n.layers
JOIN layer_inodes AS m ON m.content = x.content;
INSERT INTO repeated_content SELECT layer, content, inodes FROM layer_inodes WHERE inodes <> 1;
DROP TABLE new_group;
DROP TABLE content_layers;
DROP TABLE layer_inodes;

UPDATE content_group SET (first_content, last_content, contents, merged, bytes, landed_bytes, allocated_bytes, file_bytes,
                          landed_file_bytes) =
    (x.first, x.last, x.contents, x.merged, x.bytes, x.landed, x.allocated, x.file_bytes, x.landed_file_bytes)
FROM (
    SELECT c.content_group AS id, min(c.id) AS first, max(c.id) AS last, count(*) AS contents, sum(c.state = 2) AS merged,
        sum(c.size) AS bytes, sum(c.here) AS landed, sum((c.here + 4095) / 4096 * 4096) AS allocated,
        sum(c.size * c.files) AS file_bytes, sum(c.here * c.files) AS landed_file_bytes
    FROM (SELECT *, CASE state WHEN 2 THEN size WHEN 1 THEN landed ELSE 0 END AS here FROM content) AS c
    GROUP BY c.content_group
) AS x WHERE x.id = content_group.id;

INSERT INTO proven_twin
SELECT digest, sum(here) - max(here), sum((here + 4095) / 4096 * 4096) - max((here + 4095) / 4096 * 4096)
FROM (SELECT digest, CASE state WHEN 2 THEN size ELSE landed END AS here FROM content WHERE proof = 1 AND state > 0)
GROUP BY digest HAVING count(*) > 1;
