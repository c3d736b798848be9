-- The views: lamina's interface for people and programs that use sqlite3. They keep their columns from version to version.
-- Digests are 'sha256:…', sizes are bytes, times are ISO 8601 in UTC. README.md beside this file describes each one.

DROP VIEW IF EXISTS content_status;
DROP VIEW IF EXISTS snapshot_status;
DROP VIEW IF EXISTS chain_status;
DROP VIEW IF EXISTS image_status;
DROP VIEW IF EXISTS layer_status;
DROP VIEW IF EXISTS merge_progress;
DROP VIEW IF EXISTS cache_usage;
DROP VIEW IF EXISTS duplicate_content;
DROP VIEW IF EXISTS image_content;
DROP VIEW IF EXISTS file;
DROP VIEW IF EXISTS content_file;
DROP VIEW IF EXISTS image_file;
DROP VIEW IF EXISTS mount_status;
DROP VIEW IF EXISTS layer_content;
DROP VIEW IF EXISTS content_landed;
DROP VIEW IF EXISTS layer_holder;
DROP VIEW IF EXISTS sealed_content;
DROP VIEW IF EXISTS sealed_status;
DROP VIEW IF EXISTS sealed_use;
DROP VIEW IF EXISTS content_use;

-- How much of each content is in the store.
CREATE VIEW content_landed AS
SELECT c.id AS content, CASE c.state WHEN 2 THEN c.size WHEN 1 THEN c.landed ELSE 0 END AS landed_bytes
FROM content AS c;

-- Which contents a layer holds, once each, with the number of its inodes that have it.
CREATE VIEW layer_content AS
SELECT lg.layer AS layer, c.id AS content,
    coalesce((SELECT r.inodes FROM repeated_content AS r WHERE r.layer = lg.layer AND r.content = c.id), 1) AS inodes
FROM layer_group AS lg
CROSS JOIN content_group AS g ON g.id = lg.content_group
CROSS JOIN content AS c ON +c.content_group = g.id AND c.id BETWEEN g.first_content AND g.last_content;

CREATE VIEW layer_status AS
SELECT
    'sha256:' || lower(hex(l.digest)) AS digest,
    CASE WHEN l.diff_id IS NULL THEN NULL ELSE 'sha256:' || lower(hex(l.diff_id)) END AS diff_id,
    CASE WHEN l.toc_digest IS NULL THEN NULL ELSE 'sha256:' || lower(hex(l.toc_digest)) END AS toc_digest,
    CASE l.format
        WHEN 1 THEN 'estargz' WHEN 2 THEN 'zstd:chunked' WHEN 3 THEN 'stargz' WHEN 4 THEN 'estargz+external-toc'
        WHEN 5 THEN 'tar+gzip' WHEN 6 THEN 'tar+zstd' WHEN 7 THEN 'tar' ELSE 'unknown'
    END AS format,
    l.size AS compressed_bytes,
    s.contents AS contents,
    s.merged AS merged_contents,
    s.bytes AS bytes,
    s.landed AS landed_bytes,
    CASE WHEN s.merged = s.contents THEN 'complete' WHEN s.landed = 0 THEN 'absent' ELSE 'partial' END AS state,
    (SELECT count(DISTINCT il.image) FROM image_layer AS il WHERE il.layer = l.id) AS images,
    strftime('%Y-%m-%dT%H:%M:%SZ', l.indexed_at, 'unixepoch') AS indexed_at,
    CASE l.toc_proof WHEN 1 THEN 'manifest' WHEN 2 THEN 'blob' WHEN 3 THEN 'none needed' ELSE 'none' END AS toc_proof,
    strftime('%Y-%m-%dT%H:%M:%SZ', l.blob_proven_at, 'unixepoch') AS blob_proven_at,
    strftime('%Y-%m-%dT%H:%M:%SZ', l.chunks_proven_at, 'unixepoch') AS chunks_proven_at,
    strftime('%Y-%m-%dT%H:%M:%SZ', l.files_proven_at, 'unixepoch') AS files_proven_at,
    CASE l.diff_id_state
        WHEN 1 THEN 'proven' WHEN 2 THEN 'mismatch' WHEN 4 THEN 'mismatch' WHEN 3 THEN 'not provable' ELSE 'not yet'
    END AS diff_id_proof,
    strftime('%Y-%m-%dT%H:%M:%SZ', l.diff_id_at, 'unixepoch') AS diff_id_proven_at,
    CASE WHEN l.computed_diff_id IS NULL THEN NULL ELSE 'sha256:' || lower(hex(l.computed_diff_id)) END
        AS computed_diff_id,
    l.origin AS repository,
    strftime('%Y-%m-%dT%H:%M:%SZ', l.quarantined_at, 'unixepoch') AS quarantined_at,
    l.quarantine AS quarantine,
    l.id AS layer_row
FROM layer AS l
JOIN (
    SELECT
        y.id AS layer,
        coalesce(sum(g.contents), 0) AS contents,
        coalesce(sum(g.merged), 0) AS merged,
        coalesce(sum(g.bytes), 0) AS bytes,
        coalesce(sum(g.landed_bytes), 0) AS landed
    FROM layer AS y
    LEFT JOIN layer_group AS lg ON lg.layer = y.id
    LEFT JOIN content_group AS g ON g.id = lg.content_group
    GROUP BY y.id
) AS s ON s.layer = l.id;

CREATE VIEW image_status AS
SELECT
    m.reference AS reference,
    'sha256:' || lower(hex(m.manifest_digest)) AS manifest_digest,
    m.platform AS platform,
    (SELECT count(*) FROM image_layer AS il WHERE il.image = m.id) AS layers,
    (SELECT coalesce(sum(l.size), 0) FROM layer AS l
     WHERE l.id IN (SELECT il.layer FROM image_layer AS il WHERE il.image = m.id)) AS compressed_bytes,
    s.contents AS contents,
    s.merged AS merged_contents,
    s.bytes AS bytes,
    s.landed AS landed_bytes,
    CASE WHEN s.merged = s.contents THEN 'complete' WHEN s.landed = 0 THEN 'absent' ELSE 'partial' END AS state,
    (SELECT count(*) FROM mount AS mt WHERE mt.image = m.id) AS mounts,
    strftime('%Y-%m-%dT%H:%M:%SZ', m.pulled_at, 'unixepoch') AS pulled_at,
    m.pinned AS pinned
FROM image AS m
JOIN (
    SELECT
        x.image AS image,
        coalesce(sum(g.contents), 0) AS contents,
        coalesce(sum(g.merged), 0) AS merged,
        coalesce(sum(g.bytes), 0) AS bytes,
        coalesce(sum(g.landed_bytes), 0) AS landed
    FROM (
        -- Each group once, however many of the image's layers have it.
        SELECT DISTINCT i.id AS image, lg.content_group AS content_group
        FROM image AS i
        LEFT JOIN image_layer AS il ON il.image = i.id
        LEFT JOIN layer_group AS lg ON lg.layer = il.layer
    ) AS x
    LEFT JOIN content_group AS g ON g.id = x.content_group
    GROUP BY x.image
) AS s ON s.image = m.id;

-- Contents on their way: some chunks have landed, some have not.
CREATE VIEW merge_progress AS
SELECT
    'sha256:' || lower(hex(c.digest)) AS digest,
    c.size AS bytes,
    sum(CASE WHEN k.landed = 1 THEN k.size ELSE 0 END) AS landed_bytes,
    count(*) AS chunks,
    sum(k.landed) AS landed_chunks,
    round(100.0 * sum(CASE WHEN k.landed = 1 THEN k.size ELSE 0 END) / c.size, 1) AS percent,
    CASE WHEN c.state > 0 AND c.sync BETWEEN 1 AND (SELECT syncs FROM store) THEN 'yes' ELSE 'no' END AS durable
FROM content AS c
JOIN chunk AS k ON k.content = c.id
WHERE c.state = 1
GROUP BY c.id;

-- One row: what the store holds, what that takes on disk, and what sharing saves.
-- Proven contents of one digest are one file under several names.
CREATE VIEW cache_usage AS
WITH groups (contents, merged, file_bytes, landed_file_bytes, landed_bytes, allocated_bytes) AS MATERIALIZED (
    SELECT sum(contents), sum(merged), sum(file_bytes), sum(landed_file_bytes), sum(landed_bytes), sum(allocated_bytes)
    FROM content_group
),
twins (landed_bytes, allocated_bytes) AS MATERIALIZED (
    SELECT coalesce(sum(landed_bytes), 0), coalesce(sum(allocated_bytes), 0) FROM proven_twin
)
SELECT
    (SELECT count(*) FROM image) AS images,
    (SELECT count(*) FROM layer) AS layers,
    g.contents AS contents,
    g.merged AS merged_contents,
    g.file_bytes AS logical_bytes,
    g.allocated_bytes - t.allocated_bytes AS allocated_bytes,
    g.landed_file_bytes - (g.landed_bytes - t.landed_bytes) AS shared_bytes
FROM groups AS g, twins AS t;

-- Contents that several files hold, and what holding them once saves.
CREATE VIEW duplicate_content AS
SELECT
    'sha256:' || lower(hex(c.digest)) AS digest,
    c.size AS bytes,
    CASE max(c.state) WHEN 2 THEN 'merged' WHEN 1 THEN 'partial' ELSE 'absent' END AS state,
    (SELECT count(DISTINCT lg.layer) FROM content AS o JOIN layer_group AS lg ON lg.content_group = o.content_group
     WHERE o.digest = c.digest AND o.size = c.size) AS layers,
    sum(c.files) AS files,
    (sum(c.files) - 1) * c.size AS saved_bytes,
    c.digest AS digest_bytes
FROM content AS c
WHERE c.digest IN (SELECT r.digest FROM content AS r WHERE r.files > 1 OR r.claim <> x'')
GROUP BY c.digest, c.size
HAVING sum(c.files) > 1;

-- Every content: how much of it is here, what is proven of it, and who has it.
CREATE VIEW content_status AS
SELECT
    'sha256:' || lower(hex(c.digest)) AS digest,
    c.size AS bytes,
    CASE c.state WHEN 2 THEN c.size WHEN 1 THEN c.landed ELSE 0 END AS landed_bytes,
    CASE c.state WHEN 2 THEN 'merged' WHEN 1 THEN 'partial' ELSE 'absent' END AS state,
    CASE c.proof WHEN 1 THEN 'proven' WHEN 2 THEN 'disproven' ELSE 'claimed' END AS proof,
    CASE WHEN c.state > 0 AND c.sync BETWEEN 1 AND (SELECT syncs FROM store) THEN 'yes' ELSE 'no' END AS durable,
    coalesce(h.layers, 0) AS layers,
    c.files AS files,
    coalesce(h.images, 0) AS images,
    CASE h.is_held WHEN 1 THEN 'yes' ELSE 'no' END AS held,
    c.digest AS digest_bytes,
    c.id AS content_row
FROM content AS c
LEFT JOIN (
    SELECT
        lg.content_group AS content_group,
        count(DISTINCT lg.layer) AS layers,
        count(DISTINCT il.image) AS images,
        max(lg.layer IN (SELECT layer FROM layer_holder)) AS is_held
    FROM layer_group AS lg
    LEFT JOIN image_layer AS il ON il.layer = lg.layer
    GROUP BY lg.content_group
) AS h ON h.content_group = c.content_group;

-- Which images hold a content.
CREATE VIEW image_content AS
SELECT
    m.reference AS reference,
    'sha256:' || lower(hex(l.digest)) AS layer,
    il.position AS position,
    'sha256:' || lower(hex(c.digest)) AS digest,
    c.size AS bytes,
    CASE c.state WHEN 2 THEN 'merged' WHEN 1 THEN 'partial' ELSE 'absent' END AS state,
    coalesce((SELECT r.inodes FROM repeated_content AS r WHERE r.layer = lg.layer AND r.content = c.id), 1) AS files,
    c.digest AS digest_bytes,
    l.id AS layer_row,
    c.id AS content_row,
    m.platform AS platform
FROM image AS m
JOIN image_layer AS il ON il.image = m.id
JOIN layer AS l ON l.id = il.layer
JOIN layer_group AS lg ON lg.layer = l.id
JOIN content_group AS g ON g.id = lg.content_group
JOIN content AS c ON +c.content_group = g.id AND c.id BETWEEN g.first_content AND g.last_content;

-- Every path of every layer.
CREATE VIEW file AS
SELECT
    'sha256:' || lower(hex(l.digest)) AS layer,
    CASE p.path WHEN x'' THEN '/' ELSE '/' || CAST(p.path AS TEXT) || '/' END || CAST(d.name AS TEXT) AS path,
    CASE i.mode & 61440
        WHEN 32768 THEN 'file' WHEN 16384 THEN 'directory' WHEN 40960 THEN 'symlink' WHEN 8192 THEN 'character device'
        WHEN 24576 THEN 'block device' WHEN 4096 THEN 'fifo' ELSE 'other'
    END AS type,
    printf('%04o', i.mode & 4095) AS mode,
    i.uid AS uid,
    i.gid AS gid,
    i.size AS bytes,
    strftime('%Y-%m-%dT%H:%M:%SZ', i.mtime, 'unixepoch') AS modified_at,
    CAST(i.target AS TEXT) AS target,
    CASE WHEN c.id IS NULL THEN NULL ELSE 'sha256:' || lower(hex(c.digest)) END AS digest,
    CASE c.state WHEN 2 THEN 'merged' WHEN 1 THEN 'partial' WHEN 0 THEN 'absent' END AS state,
    i.id AS inode,
    CAST(d.name AS TEXT) AS name,
    CASE c.state WHEN 2 THEN c.size WHEN 1 THEN c.landed WHEN 0 THEN 0 END AS landed_bytes,
    c.opens AS opens,
    l.id AS layer_row,
    c.id AS content_row
FROM layer AS l
JOIN dirent AS d ON d.parent BETWEEN l.first_inode AND l.last_inode
JOIN directory AS p ON p.inode = d.parent
JOIN inode AS i ON i.id = d.inode
LEFT JOIN content AS c ON c.id = i.content
UNION ALL
-- The root, which has no name.
SELECT
    'sha256:' || lower(hex(l.digest)), '/', 'directory', printf('%04o', i.mode & 4095), i.uid, i.gid, i.size,
    strftime('%Y-%m-%dT%H:%M:%SZ', i.mtime, 'unixepoch'), NULL, NULL, NULL, i.id, '', NULL, NULL, l.id, NULL
FROM layer AS l
JOIN inode AS i ON i.id = l.root;

-- Every path of every image, layer by layer, without the roots: what `file` is for layers.
CREATE VIEW image_file AS
SELECT
    m.reference AS reference,
    il.position AS position,
    'sha256:' || lower(hex(l.digest)) AS layer,
    CASE p.path WHEN x'' THEN '/' ELSE '/' || CAST(p.path AS TEXT) || '/' END || CAST(d.name AS TEXT) AS path,
    CASE i.mode & 61440
        WHEN 32768 THEN 'file' WHEN 16384 THEN 'directory' WHEN 40960 THEN 'symlink' WHEN 8192 THEN 'character device'
        WHEN 24576 THEN 'block device' WHEN 4096 THEN 'fifo' ELSE 'other'
    END AS type,
    printf('%04o', i.mode & 4095) AS mode,
    i.uid AS uid,
    i.gid AS gid,
    i.size AS bytes,
    strftime('%Y-%m-%dT%H:%M:%SZ', i.mtime, 'unixepoch') AS modified_at,
    CAST(i.target AS TEXT) AS target,
    CASE WHEN c.id IS NULL THEN NULL ELSE 'sha256:' || lower(hex(c.digest)) END AS digest,
    CASE c.state WHEN 2 THEN 'merged' WHEN 1 THEN 'partial' WHEN 0 THEN 'absent' END AS state,
    i.id AS inode,
    CAST(d.name AS TEXT) AS name,
    CASE c.state WHEN 2 THEN c.size WHEN 1 THEN c.landed WHEN 0 THEN 0 END AS landed_bytes,
    c.opens AS opens,
    l.id AS layer_row,
    c.id AS content_row
FROM image AS m
JOIN image_layer AS il ON il.image = m.id
JOIN layer AS l ON l.id = il.layer
JOIN dirent AS d ON d.parent BETWEEN l.first_inode AND l.last_inode
JOIN directory AS p ON p.inode = d.parent
JOIN inode AS i ON i.id = d.inode
LEFT JOIN content AS c ON c.id = i.content;

-- Every file that has bytes, once, by one of its names: for those who have contents and want to know where they are.
-- All inodes are looked through, which is why the joins are in this order.
CREATE VIEW content_file AS
SELECT
    'sha256:' || lower(hex(c.digest)) AS digest,
    'sha256:' || lower(hex(l.digest)) AS layer,
    (SELECT CASE p.path WHEN x'' THEN '/' ELSE '/' || CAST(p.path AS TEXT) || '/' END || CAST(d.name AS TEXT)
     FROM dirent AS d JOIN directory AS p ON p.inode = d.parent
     WHERE d.parent = i.id - i.up AND d.inode = i.id LIMIT 1) AS path,
    c.size AS bytes,
    c.opens AS opens,
    CASE WHEN c.used_at = 0 THEN NULL ELSE strftime('%Y-%m-%dT%H:%M:%SZ', c.used_at / 1000, 'unixepoch') END AS used_at,
    i.id AS inode,
    c.digest AS digest_bytes,
    l.id AS layer_row,
    i.content AS content_row
FROM inode AS i
CROSS JOIN content AS c ON c.id = i.content
CROSS JOIN layer AS l ON i.id BETWEEN l.first_inode AND l.last_inode;

-- What is mounted where, as far as lamina was asked to.
CREATE VIEW mount_status AS
SELECT
    mt.target AS target,
    m.reference AS reference,
    mt.upper AS writable,
    strftime('%Y-%m-%dT%H:%M:%SZ', mt.mounted_at, 'unixepoch') AS mounted_at,
    m.platform AS platform,
    CASE WHEN mt.sealed IS NULL THEN 'fuse' ELSE 'sealed' END AS way
FROM mount AS mt
JOIN image AS m ON m.id = mt.image;

-- The sealed chains that something uses: a mount of the kernel's, in whatever namespace, or what was answered with one.
CREATE VIEW sealed_use AS
SELECT sealed FROM sealed_mount
UNION SELECT sealed FROM mount WHERE sealed IS NOT NULL
UNION SELECT sealed FROM snapshot WHERE sealed IS NOT NULL;

-- The contents that used sealed chains need: they stay, however full the store is.
CREATE VIEW sealed_content AS
SELECT DISTINCT k.content AS content
FROM sealed_use AS u
CROSS JOIN sealed_view AS sv ON sv.sealed = u.sealed
CROSS JOIN layer_view AS v ON v.id = sv.view
CROSS JOIN chunk_source AS k ON k.layer = v.layer;

-- Chains of layers that the kernel can show by itself.
CREATE VIEW sealed_status AS
SELECT
    'sealed/' || s.id AS directory,
    'sha256:' || lower(hex(s.chain)) AS chain,
    (SELECT count(*) FROM sealed_view AS v WHERE v.sealed = s.id) AS layers,
    s.inodes AS inodes,
    s.bytes AS image_bytes,
    (SELECT count(*) FROM sealed_mount AS m WHERE m.sealed = s.id) AS mounts,
    (SELECT count(*) FROM mount AS m WHERE m.sealed = s.id) + (SELECT count(*) FROM snapshot AS p WHERE p.sealed = s.id)
        AS users,
    strftime('%Y-%m-%dT%H:%M:%SZ', s.sealed_at, 'unixepoch') AS sealed_at
FROM sealed AS s;

-- What keeps a layer, and a view of it: gc takes away what is not in here. Whoever has another reason to keep one adds a SELECT.
CREATE VIEW layer_holder AS
SELECT il.layer AS layer, il.view AS view, 'image' AS holder, m.reference AS name
FROM image_layer AS il JOIN image AS m ON m.id = il.image
UNION ALL
SELECT v.layer, v.id, 'mount', mt.target
FROM mount_view AS mv JOIN mount AS mt ON mt.id = mv.mount JOIN layer_view AS v ON v.id = mv.view
UNION ALL
SELECT s.layer, s.view, 'snapshot', CAST(s.key AS TEXT) FROM snapshot AS s WHERE s.view IS NOT NULL
UNION ALL
SELECT v.layer, v.id, 'sealed', 'sealed/' || u.sealed
FROM sealed_use AS u JOIN sealed_view AS sv ON sv.sealed = u.sealed JOIN layer_view AS v ON v.id = sv.view
UNION ALL
SELECT p.layer, p.view, 'podman', lower(hex(p.id)) FROM podman_layer AS p;

-- How often each content was opened, and when it was used last.
CREATE VIEW content_use AS
SELECT
    'sha256:' || lower(hex(c.digest)) AS digest,
    c.size AS bytes,
    CASE c.state WHEN 2 THEN 'merged' WHEN 1 THEN 'partial' ELSE 'absent' END AS state,
    c.opens AS opens,
    CASE WHEN c.used_at = 0 THEN NULL ELSE strftime('%Y-%m-%dT%H:%M:%SZ', c.used_at / 1000, 'unixepoch') END AS used_at,
    c.id AS content_row
FROM content AS c;

-- What is known of the layers that containerd's chains are made of: by the claim of whoever wrote an image, proven, or found false.
CREATE VIEW chain_status AS
SELECT
    (SELECT value FROM snapshot_label AS c WHERE c.snapshot = s.id AND c.name = 'containerd.io/snapshot.ref') AS chain_id,
    CASE
        WHEN l.quarantined_at IS NOT NULL THEN 'quarantined'
        WHEN l.diff_id_state = 1 THEN 'proven'
        WHEN EXISTS (SELECT 1 FROM proven_layer AS p WHERE p.digest = l.digest
                     AND p.toc_digest = coalesce(l.toc_digest, x'') AND p.diff_id = l.diff_id) THEN 'proven'
        ELSE 'claimed'
    END AS state,
    l.quarantine AS reason,
    s.reference AS image,
    'sha256:' || lower(hex(l.digest)) AS layer,
    CASE WHEN l.toc_digest IS NULL THEN NULL ELSE 'sha256:' || lower(hex(l.toc_digest)) END AS toc_digest,
    CASE WHEN l.diff_id IS NULL THEN NULL ELSE 'sha256:' || lower(hex(l.diff_id)) END AS diff_id,
    l.origin AS repository,
    CAST(s.key AS TEXT) AS snapshot,
    l.id AS layer_row
FROM snapshot AS s
JOIN layer AS l ON l.id = s.layer;

-- containerd's snapshots: which are lazy layers, and why the others are not.
CREATE VIEW snapshot_status AS
SELECT
    CAST(s.key AS TEXT) AS name,
    CAST(p.key AS TEXT) AS parent,
    CASE s.kind WHEN 1 THEN 'view' WHEN 2 THEN 'active' ELSE 'committed' END AS kind,
    CASE WHEN s.view IS NULL THEN 'no' ELSE 'yes' END AS lazy,
    CASE WHEN l.id IS NULL THEN NULL ELSE 'sha256:' || lower(hex(l.digest)) END AS layer,
    (SELECT value FROM snapshot_label AS c WHERE c.snapshot = s.id AND c.name = 'containerd.io/snapshot.ref') AS chain_id,
    s.reference AS image,
    s.refusal AS refusal,
    CASE WHEN s.view IS NULL THEN 'snapshots/' || s.id || '/fs' ELSE 'fs/' || s.view END AS directory,
    s.bytes AS bytes,
    strftime('%Y-%m-%dT%H:%M:%SZ', s.created_at / 1000000000, 'unixepoch') AS created_at,
    CASE WHEN s.kind = 3 THEN NULL WHEN s.sealed IS NULL THEN 'fuse' ELSE 'sealed' END AS way
FROM snapshot AS s
LEFT JOIN snapshot AS p ON p.id = s.parent
LEFT JOIN layer AS l ON l.id = s.layer;
