import Foundation
import Glibc
import LaminaDigest
import LaminaSchema
import LaminaStore
import LaminaTestSupport
import Testing

@Suite(
    "The views, asked with the sqlite3 command",
    .enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/sqlite3"), "the sqlite3 command is missing"))
struct ViewsTests {
    let scratch = Scratch.inMemory()

    @Test("every view is documented, with its columns in their order")
    func columns() throws {
        let store = try scratch.open()
        let documented = try DocumentedView.all()
        let names = try scratch.sqlite3("SELECT name FROM sqlite_schema WHERE type = 'view' ORDER BY name")
        #expect(documented.map(\.name).sorted() == names.split(separator: "\n").map(String.init))
        for view in documented {
            let columns = try scratch.sqlite3("SELECT name FROM pragma_table_info('\(view.name)')")
            #expect(view.columns == columns.split(separator: "\n").map(String.init), "\(view.name)")
        }
        withExtendedLifetime(store) {}
    }

    @Test("every example in the documentation answers what it says, while the store is open and after")
    func examples() throws {
        var store: Store? = try ExampleStore.make(in: scratch)
        let documented = try DocumentedView.all()
        #expect(documented.count >= 7)
        for view in documented {
            #expect(view.query.contains(view.name))
            #expect(try scratch.sqlite3(view.query, options: "-box") == view.answer, "\(view.name)")
        }
        withExtendedLifetime(store) {}
        store = nil
        for view in documented {
            #expect(try scratch.sqlite3(view.query, options: "-box") == view.answer, "\(view.name), closed")
        }
    }

    @Test("the SQL of docs/inspecting.md answers a dozen questions as it says there")
    func inspecting() throws {
        let store = try ExampleStore.make(in: scratch)
        let questions = try DocumentedQuestion.all()
        #expect(questions.count >= 12)
        for question in questions {
            #expect(!question.query.isEmpty && !question.answer.isEmpty, "\(question.title)")
            #expect(try scratch.sqlite3(question.query, options: "-box") == question.answer, "\(question.title)")
        }
        // And what removing brings, once there is something to remove.
        let free = try #require(questions.first { $0.title.contains("gc") })
        #expect(try scratch.sqlite3(free.query) == "0|0\n")
        try scratch.sqlite(
            "DELETE FROM snapshot; DELETE FROM mount_view; DELETE FROM mount; DELETE FROM image_layer; DELETE FROM image"
        )
        #expect(try scratch.sqlite3(free.query) == "2|6010\n")
        withExtendedLifetime(store) {}
    }

    @Test("an image, a layer, a content and a path are inspected with what the views say of them")
    func inspections() throws {
        let store = try ExampleStore.make(in: scratch)
        let application = "localhost:5000/app:1"
        let record = try #require(try store.index.images(named: application).first)
        let image = try #require(try store.index.inspect(image: record))
        #expect(image.layers.map(\.digest) == ["\(digest("base"))", "\(digest("application"))"])
        #expect(image.image.landedBytes == 6010 && image.mounts.map(\.target) == ["/mnt/app"])
        #expect(image.layers[0].images == ["docker.io/library/debian:12", application])
        #expect(image.layers[0].sources.count == 1 && image.layers[0].diffID != nil)
        var other = record
        other.platform = "linux/s390x"
        #expect(try store.index.inspect(image: other) == nil)

        let layers = try store.index.inspect(layersWithPrefix: String("\(digest("application"))".prefix(15)))
        #expect(layers == [image.layers[1]])
        #expect(try store.index.inspect(layersWithPrefix: "sha256:000000").isEmpty)

        let release = "\(ExampleStore.release.digest)"
        let contents = try store.index.inspect(contentsWithPrefix: release, limit: 2)
        #expect(contents.count == 1)
        #expect(contents.first?.state == "merged" && contents.first?.proof == "proven")
        #expect(contents.first?.images == ["docker.io/library/debian:12", application])
        #expect(
            contents.first?.files.map(\.path).sorted() == [
                "/etc/app-release", "/etc/os-release", "/usr/lib/os-release",
            ])
        #expect(
            try store.index.inspect(path: "/etc/debian-release", of: record).map(\.type) == [
                "symlink", "character device",
            ])
        #expect(try store.index.inspect(path: "/none", of: record).isEmpty)
    }

    @Test("an open write transaction holds nobody up and shows nothing of what it has not committed")
    func duringWrite() throws {
        let store = try ExampleStore.make(in: scratch)
        let record = LayerRecord(
            digest: digest("c"), diffID: nil, tocDigest: nil, format: 1, size: 5, prioritizedEnd: nil,
            location: "oci:/x")
        let question = "SELECT layers, contents FROM cache_usage"
        _ = try store.importLayer(record, inodeCount: 0) { importer in
            var offset: Int64 = 0
            _ = try importer.add(FileBytes(pattern(77)), blobOffset: &offset)
            #expect(try scratch.sqlite3(question) == "2|3\n")
            #expect(try store.index.cacheUsage().layers == 2)
            #expect(try IndexReader(store.index).inode(1) != nil)
        }
        #expect(try scratch.sqlite3(question) == "3|4\n")
    }

    @Test("a transaction that a person keeps open at a terminal does not stop the store from writing")
    func personReads() throws {
        let store = try ExampleStore.make(in: scratch)
        let person = try #require(
            popen(
                "cd '\(scratch.root)'; { echo 'BEGIN; SELECT layers FROM cache_usage;'; "
                    + "n=0; while [ ! -e stop ] && [ $n -lt 500 ]; do sleep 0.02; n=$((n+1)); done; } | sqlite3 -readonly index.db",
                "r"))
        defer { pclose(person) }
        var line = [CChar](repeating: 0, count: 100)
        #expect(fgets(&line, 100, person) != nil)
        try store.importLayer("c", [Entry("x", .fifo)])
        #expect(try store.index.layerStatus().count == 3)
        creat(scratch.root + "/stop", 0o600)
    }

    @Test("the contents of layers and images, and what is held once for several")
    func contents() throws {
        let store = try ExampleStore.make(in: scratch)
        let release = ExampleStore.release.digest
        #expect(
            try scratch.sqlite3("SELECT digest, bytes, state, layers, files, saved_bytes FROM duplicate_content")
                == "\(release)|10|merged|2|3|20\n")
        #expect(
            try scratch.sqlite3(
                """
                SELECT position, layer, bytes, state, files FROM image_content
                WHERE reference = 'localhost:5000/app:1' ORDER BY position, bytes
                """)
                    == """
                    0|\(digest("base"))|10|merged|2
                    0|\(digest("base"))|15000|partial|1
                    1|\(digest("application"))|10|merged|1
                    1|\(digest("application"))|5000|absent|1

                    """)
        #expect(try scratch.sqlite3("SELECT landed_bytes FROM content_landed ORDER BY content") == "10\n6000\n0\n")
        #expect(
            try scratch.sqlite3("SELECT layer, content, inodes FROM layer_content ORDER BY 1, 2")
                == "1|1|2\n1|2|1\n2|1|1\n2|3|1\n")
        withExtendedLifetime(store) {}
    }

    @Test("digests, times and types are in the forms that are promised")
    func forms() throws {
        let store = try ExampleStore.make(in: scratch)
        for (view, column) in [
            ("layer_status", "digest"), ("layer_status", "diff_id"), ("layer_status", "toc_digest"),
            ("image_status", "manifest_digest"), ("merge_progress", "digest"), ("duplicate_content", "digest"),
            ("image_content", "digest"), ("image_content", "layer"), ("file", "layer"),
            ("content_status", "digest"),
        ] {
            let bad = "\(column) NOT GLOB 'sha256:*' OR length(\(column)) <> 71 OR lower(\(column)) <> \(column)"
            #expect(
                try scratch.sqlite3("SELECT count(*), sum(\(bad)) = 0 FROM \(view)").hasSuffix("|1\n"),
                "\(view).\(column)")
        }
        let time = "[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z"
        for (view, column) in [
            ("layer_status", "indexed_at"), ("image_status", "pulled_at"), ("file", "modified_at"),
            ("mount_status", "mounted_at"), ("snapshot_status", "created_at"),
        ] {
            #expect(try scratch.sqlite3("SELECT count(*) > 0 FROM \(view) WHERE \(column) GLOB '\(time)'") == "1\n")
            #expect(try scratch.sqlite3("SELECT count(*) FROM \(view) WHERE \(column) NOT GLOB '\(time)'") == "0\n")
        }
        withExtendedLifetime(store) {}
    }

    @Test("a layer without diff ID has none in its row, rather than half a digest")
    func withoutDiffID() throws {
        let store = try scratch.open()
        let record = LayerRecord(
            digest: digest("a"), diffID: nil, tocDigest: nil, format: 9, size: 5, prioritizedEnd: nil,
            location: "oci:/x")
        _ = try store.importLayer(record, inodeCount: 0) { _ in }
        #expect(
            try scratch.sqlite3("SELECT diff_id, toc_digest, format FROM layer_status", options: "-nullvalue NULL")
                == "NULL|NULL|unknown\n")
    }
}
