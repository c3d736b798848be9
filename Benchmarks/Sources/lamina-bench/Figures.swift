import BenchReport

/// Every figure of the report, in its order. A figure with a bound is a promise; the others show what it is made of.
let figures: [Figure] = promises + comparisons

private let promises: [Figure] = [
    Figure(
        "pull.cpu", "whole mix layer, registry → verified in the store: CPU", .ratio, .atMost(0.9, aim: 0.7),
        part: "pull",
        how: "`lamina pull 127.0.0.1:PORT/mix:1` into an empty store, against `gzip -dc layer > /dev/null`"),
    Figure(
        "pull.wall", "the same, wall", .ratio, .atMost(0.55, aim: 0.4), part: "pull",
        how: "the same two commands, from start to end"),
    Figure(
        "large.cpu", "1,074 MB file alone, first read to its end: CPU", .ratio, .atMost(0.9, aim: 0.7), part: "large",
        how:
            "empty store, mounted; open, read to the end; CPU of `lamina serve` from the open until it is idle again, against `gzip -dc` of that file alone"
    ),
    Figure(
        "large.first", "first 4 KiB of it, cold", .milliseconds, .atMost(50, aim: 15), part: "large",
        how: "the same open and its first read; of the file nothing is in the store"),
    Figure(
        "pull.written", "bytes written / bytes of files", .ratio, .atMost(1.05, aim: 1.02), part: "pull",
        how: "the pull of mix, index included; each file's last page counts as 4 KiB, so `tar -x` below is the least"),
    Figure(
        "rss", "peak RSS, any of these runs", .mebibytes, .atMost(128, aim: 80), summary: .maximum, part: "memory",
        how: "the largest VmHWM of all pulls and servers: mix and a 4 GiB file, 1 and 50 readers; defaults"),
    Figure(
        "reads.sequential", "reads of a merged file against ext4: 1 MiB sequential", .ratio, .atLeast(0.97, aim: 1.0),
        part: "reads", how: "the 1,074 MB file; caches dropped, read once on both sides, then timed"),
    Figure(
        "reads.random", "4 KiB random", .ratio, .atLeast(0.90, aim: 0.95), part: "reads",
        how: "300,000 `pread` of 4 KiB at the same random places"),
    Figure(
        "reads.touch", "mmap touch", .ratio, .atLeast(0.85, aim: 0.95), part: "reads",
        how: "`mmap` of the whole file, one byte of each page, `munmap`, four times"),
    Figure(
        "small.cold", "20,000 small files, first read from a cold store", .ratio, .atLeast(0.5, aim: 1.0),
        part: "small",
        how:
            "empty store, mounted; open, read, close, one file after the other, one thread; the speed against `tar -xz` of them"
    ),
    Figure(
        "small.again", "the same again, against ext4", .ratio, .atLeast(0.30, aim: 0.6), part: "small",
        how: "open, read, close; caches warm; lamina's file system against the files on the disk"),
    Figure(
        "sealed.small", "sealed image, container's overlay: 20,000 small files again, against ext4's overlay", .ratio,
        .atLeast(0.90, aim: 1.0), part: "sealed",
        how: "open, read, close, warm; overlays with an upper directory on both sides; the speed against the disk's"),
    Figure(
        "sealed.cold", "the same with nothing in memory", .ratio, .atLeast(0.90, aim: 1.0), part: "sealed",
        how: "after `echo 3 > drop_caches`"),
    Figure(
        "sealed.find", "walk + lstat of the same, warm", .ratio, .atLeast(0.90, aim: 1.0), part: "sealed",
        how: "of all directories and files"),
    Figure(
        "sealed.open", "open+close p50 of the same", .ratio, .atLeast(0.90, aim: 1.0), part: "sealed",
        how: "each opened and closed; medians against each other"),
    Figure(
        "sealed.sequential", "1 MiB sequential", .ratio, .atLeast(0.98, aim: 1.0), part: "sealed",
        how: "the 1,074 MB file, warm"),
    Figure(
        "sealed.random", "4 KiB random", .ratio, .atLeast(0.98, aim: 1.0), part: "sealed",
        how: "300,000 `pread` at the same random places"),
    Figure(
        "sealed.touch", "mmap touch", .ratio, .atLeast(0.98, aim: 1.0), part: "sealed",
        how: "one byte of each page, four times"),
    Figure(
        "sealed.bytes", "bytes of the sealed image, a file", .bytes, .atMost(200, aim: 160), part: "sealed",
        how: "`lamina seal --json`; all files of this image have times of their own"),
    Figure(
        "sealed.seconds", "sealing it", .seconds, .atMost(1.0, aim: 0.3), part: "sealed",
        how: "the whole of `lamina seal` of an image that is there, start of the process and fsync included"),
    Figure(
        "walk", "cold walk + lstat of 100,000 entries against ext4", .ratio, .atMost(1.5, aim: 1.2), part: "tree",
        how: "names and inodes dropped before (`echo 2 > drop_caches`), the disk's blocks and the index stay in memory"),
    Figure(
        "walk.overlaid", "the same under an overlay, against ext4 under an overlay", .ratio, .atMost(1.3, aim: 1.1),
        part: "tree", how: "`lamina mount` against an overlay of the same files on the disk"),
    Figure(
        "open", "open+close p50 of merged files against ext4", .ratio, .atMost(8, aim: 5), part: "small",
        how: "the 20,000 small files, each opened and closed; the median of each pass"),
    Figure(
        "toc", "100,000-entry TOC into the index", .ratio, .atMost(1.8, aim: 1.2), part: "tree",
        how:
            "the whole of `lamina pull --lazy` into an empty store, start of the process included, against `sqlite3` that inserts as many rows from a script"
    ),
    Figure(
        "restart", "restart to first answered lookup, a million inodes", .milliseconds, .atMost(100, aim: 40),
        part: "restart",
        how: "`lamina serve` ended by SIGTERM; from the start of the next one until `lstat` of a path below the mount"),
    Figure(
        "lookup", "a look-up among a million inodes against one among 10,000", .ratio, .atMost(1.3, aim: 1.0),
        part: "restart",
        how: "`lstat` of 5,000 files one after the other, each never looked up before, their directories known"),
    Figure(
        "index.bytes", "index bytes a file", .bytes, .atMost(400, aim: 250), part: "tree",
        how: "`index.db` after the pull of the 100,000-entry layer, by its entries"),
    Figure(
        "convert.wall", "`convert` of usr against `tar c | pigz -6`, wall", .ratio, .atMost(1.3, aim: 1.0),
        part: "convert",
        how: "`lamina convert dir:usr oci:…` and `tar -C usr -c . | pigz -6 > layer`; usr is in the page cache"),
    Figure(
        "scale.query", "a documented query, a million files in 10 images: the slowest", .seconds,
        .atMost(1.0, aim: 0.5), summary: .maximum, part: "scale",
        how: "`sqlite3 -readonly` with each block of SQL of docs/inspecting.md and schema/README.md, its start included"
    ),
    Figure(
        "scale.ls", "`lamina ls` of that store", .milliseconds, .atMost(50, aim: 25), summary: .maximum, part: "scale",
        how: "the whole process; the slowest"),
    Figure(
        "scale.status", "`lamina status` of it", .milliseconds, .atMost(50, aim: 25), summary: .maximum, part: "scale",
        how: "the same"),
    Figure(
        "scale.inspect", "`lamina inspect IMAGE PATH` in it", .milliseconds, .atMost(50, aim: 25), summary: .maximum,
        part: "scale", how: "the same"),
    Figure(
        "scale.check", "`lamina check IMAGE` against its share of `lamina check`", .ratio, .atMost(1.2, aim: 1.0),
        part: "scale", how: "one image of ten that have as many files each; caches warm"),
    Figure(
        "scale.repull", "a pull of an image that is there as a whole", .seconds, .atMost(0.5, aim: 0.25),
        summary: .maximum, part: "scale", how: "`lamina pull` of 100,000 files; the whole process"),
    Figure(
        "scale.unlisted", "the same of 40 plain layers with 4,000 unlisted directories each", .seconds,
        .atMost(0.5, aim: 0.25), summary: .maximum, part: "scale", how: "the same"),
    Figure(
        "scale.cleanup", "containerd's Cleanup with nothing to do, a million files", .milliseconds,
        .atMost(5, aim: 2), part: "scale",
        how: "gRPC by curl, each after the removal of a snapshot; the whole call"),
]

private let comparisons: [Figure] =
    [
        Figure("pull.cpu.value", "pull of mix: CPU", .seconds, part: "pull", how: "the first row's own value"),
        Figure("pull.cpu.reference", "`gzip -dc`: CPU", .seconds, part: "pull", how: "the first row's reference"),
        Figure("pull.wall.value", "pull of mix: wall", .seconds, part: "pull", how: "the second row's own value"),
        Figure("pull.wall.reference", "`gzip -dc`: wall", .seconds, part: "pull", how: "the second row's reference"),
        Figure("gzip-sha.cpu", "`gzip -dc | sha256sum`: CPU", .seconds, part: "pull", how: "of both processes"),
        Figure("gzip-sha.wall", "`gzip -dc | sha256sum`: wall", .seconds, part: "pull", how: "the same"),
        Figure(
            "tar.cpu", "`tar -xz` + sync: CPU", .seconds, part: "pull",
            how: "tar and its gzip; not what the kernel's threads write"),
        Figure("tar.wall", "`tar -xz` + sync: wall", .seconds, part: "pull", how: "the same, until `sync -f` returns"),
        Figure(
            "tar.written", "`tar -xz`: bytes written / bytes of files", .ratio, part: "pull",
            how: "what writing these files costs at least"),
        Figure(
            "pull.fetched", "pull of mix: bytes fetched / bytes of the layer", .ratio, part: "pull",
            how: "`fetchedBytes` of `lamina pull --json`"),
        Figure(
            "large.cpu.value", "1,074 MB file alone: CPU", .seconds, part: "large", how: "the row's own value"),
        Figure(
            "large.cpu.reference", "`gzip -dc` of the 1,074 MB file: CPU", .seconds, part: "large",
            how: "the row's reference"),
        Figure(
            "small.cold.value", "20,000 small files, first read", .perSecond, part: "small", how: "the row's own value"),
        Figure(
            "small.cold.reference", "`tar -xz` of the 20,000 small files", .perSecond, part: "small",
            how: "the row's reference, into `/dev/shm`"),
        Figure(
            "toc.value", "100,000-entry TOC into the index: wall", .seconds, part: "tree", how: "the row's own value"),
        Figure("toc.reference", "100,000 plain inserts: wall", .seconds, part: "tree", how: "the row's reference"),
        Figure(
            "large.wall", "1,074 MB file alone: wall", .seconds, part: "large", how: "from open to the end of the file"),
        Figure(
            "large.written", "1,074 MB file alone: bytes written / its bytes", .ratio, part: "large",
            how: "`write_bytes` of the server"),
        Figure(
            "small.cpu", "20,000 small files, first read: CPU", .seconds, part: "small",
            how: "of the server, all files together"),
    ]
    + [
        ("rss.pull", "peak RSS: pull of mix", "pull"), ("rss.large", "peak RSS: the 1,074 MB file, 1 reader", "large"),
        ("rss.small", "peak RSS: 20,000 small files, 1 reader", "small"),
        ("rss.mix50", "peak RSS: mix, 50 readers", "memory"), ("rss.huge1", "peak RSS: 4 GiB, 1 reader", "memory"),
        ("rss.huge50", "peak RSS: 4 GiB, 50 readers", "memory"), ("toc.rss", "peak RSS: 100,000-entry TOC", "tree"),
        ("million.rss", "peak RSS: million-entry TOC", "restart"),
        ("convert.rss", "peak RSS: convert of usr", "convert"),
    ].map { Figure($0.0, $0.1, .mebibytes, summary: .maximum, part: $0.2, how: "VmHWM") }
    + reads("reads.sequential", "1 MiB sequential", .megabytesPerSecond)
    + reads("reads.random", "4 KiB random", .perSecond)
    + reads("reads.touch", "mmap touch, pages", .perSecond)
    + everywhere("small.again", "small files again", .perSecond, "small")
    + everywhere("open", "open+close p50", .microseconds, "small")
    + everywhere("walk", "cold walk", .seconds, "tree").filter { $0.id != "walk.overlaid" }
    + [
        Figure(
            "walk.disk", "the same with nothing in memory, against ext4", .ratio, part: "tree",
            how: "`echo 3 > drop_caches` before: inodes come from the disk, the index as well")
    ]
    + everywhere("walk.disk", "cold walk from the disk", .seconds, "tree").filter { !$0.id.contains("overla") }
    + [
        Figure(
            "toc.cpu", "100,000-entry TOC into the index: CPU", .seconds, part: "tree", how: "of `lamina pull --lazy`"),
        Figure(
            "million.toc", "million-entry TOC into the index", .seconds, part: "restart",
            how: "`lamina pull --lazy`, once"),
        Figure(
            "million.bytes", "index bytes an entry, a million entries", .bytes, part: "restart",
            how: "`index.db`; every tenth file has a content of its own"),
        Figure(
            "lookup.value", "a look-up among a million inodes", .microseconds, part: "restart",
            how: "the row's own value"),
        Figure(
            "lookup.reference", "a look-up among 10,000 inodes", .microseconds, part: "restart",
            how: "the row's reference"),
    ]
    + [("text", "text (500 MB, 4:1)"), ("usr", "usr"), ("plain", "plain (mix as ordinary gzip)")].flatMap {
        name, title in
        [
            Figure(
                "\(name).cpu", "pull of \(title) against `gzip -dc`: CPU", .ratio, part: "formats",
                how: "as the first row"),
            Figure(
                "\(name).wall", "pull of \(title) against `gzip -dc`: wall", .ratio, part: "formats",
                how: "as the second row"),
            Figure(
                "\(name).written", "pull of \(title): bytes written / bytes of files", .ratio, part: "formats",
                how: "as for mix"),
        ]
    }
    + [
        Figure(
            "scale.check.all", "`lamina check` of a million files", .seconds, part: "scale", how: "the whole process"),
        Figure("scale.check.one", "`lamina check IMAGE` of 100,000 of them", .seconds, part: "scale", how: "the same"),
        Figure(
            "scale.unlisted.first", "the first pull of 40 plain layers with 4,000 unlisted directories each", .seconds,
            part: "scale", how: "`lamina pull` of 160,000 files of 1 byte, from a directory"),
        Figure(
            "scale.pull", "pull of 100,000 files of some bytes: CPU", .seconds, part: "scale",
            how: "`lamina pull` from a directory; each of the ten images"),
        Figure(
            "scale.bytes", "index bytes a file, a million files", .bytes, part: "scale",
            how: "`index.db` after the pulls, by its files"),
    ]
    + [
        Figure("convert.wall.value", "`convert` of usr: wall", .seconds, part: "convert", how: "the row's own value"),
        Figure(
            "convert.wall.reference", "`tar c | pigz -6`: wall", .seconds, part: "convert", how: "the row's reference"),
        Figure(
            "convert.cpu", "`convert` of usr against `tar c | pigz -6`: CPU", .ratio, part: "convert",
            how: "the same commands"),
    ]

/// The same compared with the same pages that lamina has the kernel read, and how fast these are without lamina.
private func reads(_ id: String, _ title: String, _ unit: Figure.Unit) -> [Figure] {
    [
        Figure(
            "\(id).pages", "\(title): lamina against the same pages, read by the backing file's own path", .ratio,
            part: "reads", how: "against the backing file on ext4 by its path in the store"),
        Figure(
            "\(id).\(Side.backing)", "\(title): ext4, the backing file", unit, part: "reads",
            how: "as above, by its path in the store"),
    ] + everywhere(id, title, unit, "reads")
}

/// One measurement on every file system, with an overlay on both sides, as an image is mounted.
private func everywhere(_ id: String, _ title: String, _ unit: Figure.Unit, _ part: String) -> [Figure] {
    [
        Figure(
            "\(id).overlaid", "\(title): lamina under an overlay against ext4 under an overlay", .ratio, part: part,
            how: "`lamina mount` against an overlay of the same files on the disk")
    ]
        + [
            ("ext4", "ext4"), ("lamina", "lamina"), ("lamina-overlay", "lamina, overlay"),
            ("ext4-overlay", "ext4, overlay"),
            ("erofs", "erofs, lz4, loop"), ("squashfs", "squashfs, lz4, loop"),
        ].map { Figure("\(id).\($0.0)", "\(title): \($0.1)", unit, part: part, how: "as above, on this file system") }
}
