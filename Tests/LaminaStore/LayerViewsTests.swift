import Glibc
import LaminaDigest
import LaminaStore
import LaminaTestSupport
import Testing

@Suite("A layer as overlayfs is given it")
struct LayerViewsTests {
    let scratch = Scratch.inMemory()
    let file = FileBytes(pattern(100))

    /// Imports the layers, bottom first, and returns their views.
    private func views(_ store: Store, _ layers: [[Entry]], prefix: String = "") throws -> [ViewID] {
        let ids = try layers.enumerated().map { try store.importLayer("\(prefix)\($0.offset)", $0.element) }
        return try store.views(of: ids)
    }

    /// A directory in the image below, with everything that can be inherited.
    private static func below(_ path: String) -> Entry {
        Entry(
            path, .directory, permissions: 0o1770, uid: 7, gid: 8, mtime: 1_234_567_890,
            xattrs: [("user.note", "below"), Entry.opaque])
    }

    private func expectInherited(_ inode: Inode?, _ location: SourceLocation = #_sourceLocation) throws {
        let inode = try #require(inode, sourceLocation: location)
        #expect(inode.mode == S_IFDIR | 0o1770, sourceLocation: location)
        #expect(inode.uid == 7 && inode.gid == 8, sourceLocation: location)
        #expect(inode.mtime == 1_234_567_890, sourceLocation: location)
    }

    private func expectOwn(_ inode: Inode?, _ comment: Comment, _ location: SourceLocation = #_sourceLocation) throws {
        let inode = try #require(inode, comment, sourceLocation: location)
        #expect(inode.mode == S_IFDIR | 0o755, comment, sourceLocation: location)
        #expect(inode.uid == 0 && inode.gid == 0 && inode.mtime == 0, comment, sourceLocation: location)
    }

    @Test("a directory that a layer does not list takes mode, owner, time and attributes from the layer below")
    func inherits() throws {
        let store = try scratch.open()
        let views = try views(
            store,
            [
                [Entry("a", .directory), Self.below("a/b")],
                [Entry("a", .implicit), Entry("a/b", .implicit), Entry("a/b/x", .file(file))],
            ])
        let reader = try IndexReader(store.index)
        let directory = try #require(try reader.walk(views[1], "a/b"))
        try expectInherited(directory)
        #expect(try reader.xattrs(of: directory.id) == ["user.note": "below"], "what steers overlayfs is not inherited")
        #expect(try reader.walk(views[1], "a")?.mtime == 1_700_000_000)
        #expect(try reader.walk(views[1], "a/b/x")?.size == 100)
        #expect(try reader.names(of: 1) == ["1", "2"])
    }

    @Test("a directory that a layer lists keeps its own attributes, and so does one that nothing below has")
    func own() throws {
        let store = try scratch.open()
        let views = try views(
            store,
            [
                [Self.below("a"), Entry("f", .fifo)],
                [Entry("a", .directory), Entry("a/x", .fifo), Entry("n", .implicit), Entry("n/x", .fifo)],
            ])
        let reader = try IndexReader(store.index)
        #expect(try reader.walk(views[1], "a")?.mode == S_IFDIR | 0o755)
        #expect(try reader.walk(views[1], "a")?.mtime == 1_700_000_000)
        try expectOwn(try reader.walk(views[1], "n"), "nothing to inherit")
    }

    @Test("what is inherited comes through layers that do not have the directory, or inherited it themselves")
    func throughLayers() throws {
        let store = try scratch.open()
        let implicit = [Entry("a", .implicit), Entry("a/x", .file(file))]
        let views = try views(
            store,
            [
                [Self.below("a")], [Entry("other", .fifo)], implicit, [Entry("third", .fifo)],
                implicit + [Entry("b", .fifo)],
            ])
        let reader = try IndexReader(store.index)
        try expectInherited(try reader.walk(views[2], "a"))
        try expectInherited(try reader.walk(views[4], "a"))
    }

    @Test("the nearest layer below that has the directory is the one that gives")
    func nearest() throws {
        let store = try scratch.open()
        let views = try views(
            store,
            [
                [Entry("a", .directory, permissions: 0o700, uid: 1)], [Self.below("a")],
                [Entry("a", .implicit), Entry("a/x", .fifo)],
            ])
        try expectInherited(try IndexReader(store.index).walk(views[2], "a"))
    }

    static let blockers: [(String, [Entry])] = [
        ("a whiteout", [Entry("a", .whiteout)]),
        ("a file", [Entry("a", .file(FileBytes([1])))]),
        ("a symbolic link", [Entry("a", .symlink("/elsewhere"))]),
        ("an opaque directory", [Entry("a", .directory, xattrs: [Entry.opaque])]),
        ("a whiteout further down", [Entry("a", .directory), Entry("a/b", .whiteout)]),
    ]

    @Test("what hides the directory in between blocks it", arguments: blockers.indices)
    func blocked(index: Int) throws {
        let (name, blocker) = Self.blockers[index]
        let store = try scratch.open()
        let views = try views(
            store,
            [
                [Entry("a", .directory), Self.below("a/b")], blocker,
                [Entry("a", .implicit), Entry("a/b", .implicit), Entry("a/b/x", .fifo)],
            ])
        try expectOwn(try IndexReader(store.index).walk(views[2], "a/b"), "\(name)")
    }

    @Test("below an opaque directory of the layer itself nothing is inherited, and its mark stays in every view")
    func opaqueItself() throws {
        let store = try scratch.open()
        let views = try views(
            store,
            [
                [Self.below("a"), Self.below("a/b"), Self.below("c")],
                [
                    Entry("a", .directory, xattrs: [Entry.opaque, ("user.own", "1")]), Entry("a/b", .implicit),
                    Entry("a/b/x", .fifo), Entry("c", .implicit), Entry("c/x", .fifo),
                ],
            ])
        let reader = try IndexReader(store.index)
        try expectInherited(try reader.walk(views[1], "c"))
        try expectOwn(try reader.walk(views[1], "a/b"), "hidden by the layer's own mark")
        let a = try #require(try reader.walk(views[1], "a"))
        #expect(try reader.xattrs(of: a.id) == ["user.own": "1", "trusted.overlay.opaque": "y"])
    }

    @Test("the root is inherited like any directory, but its time alone is no reason for another view")
    func root() throws {
        let store = try scratch.open()
        let base = try store.importLayer("base", [Entry("", .directory, permissions: 0o700, uid: 5, mtime: 99)])
        let plain = try store.importLayer("plain", [Entry("", .directory, mtime: 77)])
        let layer = try store.importLayer("layer", [Entry("x", .fifo)])
        let reader = try IndexReader(store.index)
        let above = try store.views(of: [base, layer])[1]
        #expect(try reader.walk(above, "")?.mode == S_IFDIR | 0o700)
        #expect(try reader.walk(above, "")?.uid == 5)
        let same = try store.views(of: [plain, layer])[1]
        #expect(try same == store.views(of: [layer])[0], "the layer's own inodes serve")
        #expect(same != above)
    }

    @Test("two chains over one layer give two views, the same chain and chains that give the same give the same view")
    func chains() throws {
        let store = try scratch.open()
        let a = try store.importLayer("a", [Self.below("d")])
        let b = try store.importLayer("b", [Entry("d", .directory, permissions: 0o700)])
        let c = try store.importLayer("c", [Self.below("d"), Entry("more", .fifo)])
        let layer = try store.importLayer("layer", [Entry("d", .implicit), Entry("d/x", .file(file))])
        let overA = try store.views(of: [a, layer])
        let overB = try store.views(of: [b, layer])
        #expect(overA[1] != overB[1])
        #expect(try store.views(of: [a, layer]) == overA)
        #expect(try store.views(of: [c, layer])[1] == overA[1], "what it inherits is the same")
        let inodes = try scratch.integer("SELECT count(*) FROM inode")
        _ = try store.views(of: [b, layer])
        #expect(try scratch.integer("SELECT count(*) FROM inode") == inodes)
        let reader = try IndexReader(store.index)
        try expectInherited(try reader.walk(overA[1], "d"))
        #expect(try reader.walk(overB[1], "d")?.mode == S_IFDIR | 0o700)
    }

    @Test("attributes that hash alike when they are run together still give two views")
    func fingerprint() throws {
        let store = try scratch.open()
        let a = try store.importLayer("a", [Entry("d", .directory, xattrs: [("user.a", "1\u{0}user.b\u{0}2")])])
        let b = try store.importLayer("b", [Entry("d", .directory, xattrs: [("user.a", "1"), ("user.b", "2")])])
        let layer = try store.importLayer("layer", [Entry("d", .implicit), Entry("d/x", .fifo)])
        let views = try [a, b].map { try store.views(of: [$0, layer])[1] }
        #expect(views[0] != views[1])
        let reader = try IndexReader(store.index)
        let found = try views.map { try reader.xattrs(of: try #require(try reader.walk($0, "d")).id) }
        #expect(found == [["user.a": "1\u{0}user.b\u{0}2"], ["user.a": "1", "user.b": "2"]])
    }

    @Test("no directory is reachable by two parents, files are shared between views, and hard links keep their count")
    func sharing() throws {
        let store = try scratch.open()
        let a = try store.importLayer("a", [Self.below("d")])
        let b = try store.importLayer("b", [Entry("d", .directory, permissions: 0o700)])
        let layer = try store.importLayer(
            "layer",
            [
                Entry("d", .implicit), Entry("d/x", .file(file)), Entry("e", .directory), Entry("e/sub", .directory),
                Entry("e/sub/y", .link("d/x")), Entry("e/fifo", .fifo),
            ])
        let views = try [[a, layer], [b, layer], [layer]].map { try store.views(of: $0).last }
        let reader = try IndexReader(store.index)
        let roots = try views.compactMap { try $0.flatMap { try reader.walk($0, "") }?.id }
        #expect(Set(roots).count == 3)
        for path in ["d/x", "e/sub/y"] {
            let inodes = try roots.map { try #require(try reader.walk($0, path)) }
            #expect(Set(inodes.map(\.id)).count == 1, "\(path)")
            #expect(inodes.allSatisfy { $0.nlink == 2 })
        }
        for path in ["d", "e", "e/sub"] {
            #expect(Set(try roots.map { try #require(try reader.walk($0, path)).id }).count == 3, "\(path)")
        }
        let doubled = try scratch.integers(
            """
            SELECT d.inode FROM dirent d JOIN inode i ON i.id = d.inode WHERE i.mode & 61440 = 16384
            GROUP BY d.inode HAVING count(*) > 1
            """)
        #expect(doubled == [])
        // What a layer's view needs is numbered within the view's range.
        let ranges = try scratch.integers(
            "SELECT count(*) FROM layer_view v JOIN inode i ON i.id BETWEEN v.first_inode AND v.last_inode")
        #expect(ranges == [8], "two views of four directories")
    }

    @Test("the layers that share nothing but their files appear under numbers of their own")
    func names() throws {
        let store = try scratch.open()
        let views = try views(store, (0..<12).map { _ in [Entry("x", .fifo)] })
        #expect(Set(views).count == 12)
        let reader = try IndexReader(store.index)
        #expect(try Set(reader.names(of: 1)) == Set(views.map(\.description)))
        #expect(try store.views(of: []) == [])
        let error = #expect(throws: StoreError.self) { _ = try store.views(of: [LayerID(999)]) }
        #expect(error?.code == .notFound)
    }
}
