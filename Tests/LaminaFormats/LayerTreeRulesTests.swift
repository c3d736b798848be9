import LaminaDigest
import Testing

@testable import LaminaFormats

/// Entries of a table of contents, in a short form.
enum TOCText {
    static func digest(_ seed: Character) -> String { "sha256:" + String(repeating: seed, count: 64) }

    static func file(_ name: String, _ size: Int = 0, at offset: Int = 100, digest seed: Character = "a") -> String {
        "\"name\":\"\(name)\",\"type\":\"reg\",\"size\":\(size),\"offset\":\(offset),\"mode\":420,\"digest\":\"\(digest(seed))\""
    }

    static func entry(_ type: String, _ name: String, _ more: String = "") -> String {
        "\"name\":\"\(name)\",\"type\":\"\(type)\"" + (more.isEmpty ? "" : "," + more)
    }

    static func link(_ name: String, _ target: String) -> String {
        entry("hardlink", name, "\"linkName\":\"\(target)\"")
    }

    static func chunk(
        _ name: String, _ chunkOffset: Int, _ size: Int, at offset: Int = 200, digest seed: Character = "c"
    )
        -> String
    {
        entry(
            "chunk", name,
            "\"offset\":\(offset),\"chunkOffset\":\(chunkOffset),\"chunkSize\":\(size),\"chunkDigest\":\"\(digest(seed))\""
        )
    }

    /// The first part of a file of several chunks.
    static func head(_ name: String, _ size: Int, _ chunkSize: Int) -> String {
        file(name, size) + ",\"chunkSize\":\(chunkSize),\"chunkDigest\":\"\(digest("b"))\""
    }
}

@Suite("the rules of a layer's tree")
struct LayerTreeRulesTests {
    private func names(_ tree: LayerTree, _ path: String = "") throws -> [String] {
        tree.dirents(of: try #require(tree.node(at: path))).map {
            String(decoding: tree.name(of: tree.dirents[$0]), as: UTF8.self)
        }
    }

    private func mode(_ tree: LayerTree, _ path: String) -> UInt32? {
        tree.node(at: path).map { tree.nodes[Int($0)].mode }
    }

    @Test(
        "no name climbs out",
        arguments: [
            ("../../etc/passwd", "etc/passwd"), ("/a//b/./c/..", "a/b"), ("a/../../b", "b"), ("./a/", "a"),
            ("a/b/../../../../c/d", "c/d"), ("...", "..."), ("..a/b..", "..a/b.."),
        ])
    func cleaned(_ name: String, _ path: String) throws {
        let tree = try LayerTree.parse(entries: [TOCText.file(name)])
        let node = try #require(tree.node(at: path))
        #expect(tree.path(of: node) == "/" + path)
        #expect(tree.nodes.count == path.split(separator: "/").count + 1)
    }

    @Test("an empty layer is an empty root")
    func empty() throws {
        for json in ["{\"entries\":[]}", "{\"version\":1,\"entries\":null}", " { \"x\" : [ ] , \"entries\" : [ ] } \n"]
        {
            let tree = try LayerTree.parse(json)
            #expect(tree.nodes.count == 1 && tree.nodes[0].mode == 0o40755 && tree.nodes[0].isImplicit)
        }
    }

    @Test("the root may be listed", arguments: ["", "/", "./", "a/.."])
    func root(_ name: String) throws {
        let tree = try LayerTree.parse(entries: [TOCText.entry("dir", name, "\"mode\":448,\"uid\":5")])
        #expect(tree.nodes[0].mode == 0o40700 && tree.nodes[0].uid == 5 && !tree.nodes[0].isImplicit)
        // What is not a directory is skipped there: nothing can be made of it.
        let none = try LayerTree.parse(entries: [TOCText.file(name, 5), TOCText.link(name, "x"), TOCText.file("f")])
        #expect(try names(none) == ["f"] && none.nodes[0].isImplicit && none.contents.isEmpty)
    }

    @Test("what a later entry says of a path counts")
    func duplicates() throws {
        let tree = try LayerTree.parse(entries: [
            TOCText.entry("dir", "d/", "\"mode\":448"), TOCText.file("d/x"), TOCText.entry("dir", "d", "\"mode\":493"),
            TOCText.entry("dir", "gone"), TOCText.file("gone/deep/x", 5, at: 10, digest: "e"), TOCText.file("gone"),
            TOCText.file("swap", 7, at: 20, digest: "f"), TOCText.entry("dir", "swap"), TOCText.file("swap/in"),
            TOCText.file("f", 3, at: 30, digest: "1"), TOCText.file("f", 4, at: 40, digest: "2"),
            TOCText.entry("dir", "back"), TOCText.file("back/old"), TOCText.file("back"), TOCText.entry("dir", "back"),
        ])
        #expect(try names(tree) == ["back", "d", "f", "gone", "swap"])
        #expect(try names(tree, "d") == ["x"] && names(tree, "swap") == ["in"] && names(tree, "back") == [])
        #expect(mode(tree, "d") == 0o40755 && mode(tree, "gone") == 0o100644)
        #expect(tree.contents.map(\.size) == [4])
        // Replaced files still bound the members of others.
        #expect(tree.chunks.map(\.blobSize) == [(1 << 40) - 40])
        #expect(tree.brokenPromise(tocOffset: 1 << 40) == nil)
    }

    @Test(
        "nothing lies below what is no directory",
        arguments: [
            TOCText.file("a"), TOCText.entry("symlink", "a", "\"linkName\":\"b\""), TOCText.entry("fifo", "a"),
            TOCText.link("a", "b"),
        ])
    func belowFile(_ parent: String) {
        let error = formatError {
            _ = try LayerTree.parse(entries: [TOCText.file("b"), parent, TOCText.file("a/x/y")])
        }
        #expect(error?.code == .badEntry && error?.entry == "a/x/y")
    }

    @Test("whiteouts and aufs's own files")
    func whiteouts() throws {
        let tree = try LayerTree.parse(entries: [
            TOCText.file("a/.wh.gone"), TOCText.file("a/.wh..wh..opq"), TOCText.file("a/.wh..wh.aufs"),
            TOCText.file(".wh..wh.plnk/1.2"), TOCText.file("b/.wh.real"), TOCText.file("b/real", 1),
            TOCText.file("c/real"), TOCText.file("c/.wh.real"), TOCText.file("e/.wh.dir"), TOCText.file("e/dir/x"),
            TOCText.entry("dir", "f/dir"), TOCText.file("f/.wh.dir"), TOCText.file("f/file"),
            TOCText.file("f/.wh.file"),
            TOCText.entry("dir", "f/file"),
        ])
        #expect(try names(tree) == ["a", "b", "c", "e", "f"] && names(tree, "a") == ["gone"])
        #expect(mode(tree, "a/gone") == 0o20000)
        // A whiteout hides what lower layers have, never its own layer's entries.
        #expect(mode(tree, "b/real") == 0o100644 && mode(tree, "c/real") == 0o100644)
        let opaque = ["trusted.overlay.opaque": "y", "user.overlay.opaque": "y"]
        for path in ["e/dir", "f/dir", "f/file"] {
            #expect(tree.xattrs(of: try #require(tree.node(at: path))) == opaque)
        }
        #expect(tree.xattrs(of: try #require(tree.node(at: "b"))).isEmpty)
        // This tells overlayfs that a directory has whiteouts to hide, even if nothing is below it.
        let origin = ["trusted.overlay.origin": "", "user.overlay.origin": ""]
        #expect(tree.xattrs(of: try #require(tree.node(at: "a"))) == opaque.merging(origin) { $1 })
        let root = try LayerTree.parse(entries: [TOCText.file(".wh.gone"), TOCText.file("x")])
        #expect(root.xattrs(of: 0) == origin)
    }

    @Test("what lies below the name of a whiteout is a file like others")
    func belowWhiteout() throws {
        let tree = try LayerTree.parse(entries: [TOCText.file("a/.wh.b/c"), TOCText.file("a/b/c")])
        #expect(try names(tree, "a") == [".wh.b", "b"] && names(tree, "a/.wh.b") == ["c"])
    }

    @Test("hard links to what aufs kept beside the tree are good, and it stays hidden")
    func pseudoLinks() throws {
        let tree = try LayerTree.parse(entries: [
            TOCText.entry("dir", ".wh..wh.plnk"), TOCText.file(".wh..wh.plnk/12.34", 5),
            TOCText.link("a", ".wh..wh.plnk/12.34"), TOCText.link("d/b", "/.wh..wh.plnk/12.34"),
            TOCText.file(".wh..wh.plnk/unused", 6, digest: "b"), TOCText.file(".wh..wh.orph/x", 7, digest: "c"),
        ])
        #expect(try names(tree) == ["a", "d"] && names(tree, "d") == ["b"])
        #expect(tree.node(at: "a") == tree.node(at: "d/b") && tree.contents.map(\.size) == [5])
        #expect(tree.nodes[Int(try #require(tree.node(at: "a")))].nlink == 2)
        #expect(tree.brokenPromise(tocOffset: 1 << 40) == nil)
    }

    @Test(
        "whiteouts of nothing are errors",
        arguments: [".wh.", ".wh..", ".wh...", "a/.wh."])
    func badWhiteouts(_ name: String) {
        #expect(formatError { _ = try LayerTree.parse(entries: [TOCText.file(name)]) }?.code == .badEntry)
    }

    @Test("landmarks and the table itself are hidden at the root only")
    func landmarks() throws {
        let tree = try LayerTree.parse(entries: [
            TOCText.file("first", 1, at: 10), TOCText.file(".prefetch.landmark", 1, at: 50),
            TOCText.file("stargz.index.json", 1, at: 60), TOCText.file("d/.prefetch.landmark", 1, at: 70),
        ])
        #expect(try names(tree) == ["d", "first"] && names(tree, "d") == [".prefetch.landmark"])
        #expect(tree.prioritizedEnd == 50 && tree.chunks.first?.blobSize == 40)
        let none = try LayerTree.parse(entries: [TOCText.file(".no.prefetch.landmark", 1)])
        #expect(none.prioritizedEnd == nil && none.nodes.count == 1)
    }

    @Test("hard links share a node, whichever comes first")
    func hardLinks() throws {
        let tree = try LayerTree.parse(entries: [
            TOCText.link("early", "./x/../file"), TOCText.link("chain2", "chain1"), TOCText.link("chain1", "early"),
            TOCText.file("file", 5, digest: "d"), TOCText.link("late", "/file"), TOCText.file("kept", 6, digest: "e"),
            TOCText.link("keeps", "kept"), TOCText.file("kept", 7, digest: "f"), TOCText.link("other", "late"),
            TOCText.entry("dir", "d"), TOCText.file("d/in", 8), TOCText.link("out", "d/in"), TOCText.file("d"),
        ])
        let file = try #require(tree.node(at: "file"))
        for name in ["early", "chain1", "chain2", "late", "other"] { #expect(tree.node(at: name) == file) }
        #expect(tree.nodes[Int(file)].nlink == 6)
        #expect(tree.nodes[Int(try #require(tree.node(at: "keeps")))].size == 6)
        #expect(tree.nodes[Int(try #require(tree.node(at: "kept")))].size == 7)
        #expect(tree.nodes[Int(try #require(tree.node(at: "out")))].nlink == 1)
        #expect(tree.brokenPromise(tocOffset: 1 << 40) == nil)
    }

    @Test(
        "links to nowhere, to a directory, to a whiteout or in a ring are errors that name the link",
        arguments: [
            [TOCText.link("l", "no/where")], [TOCText.entry("dir", "d"), TOCText.link("l", "d")],
            [TOCText.link("l", "/")],
            [TOCText.link("l", "m"), TOCText.link("m", "n"), TOCText.link("n", "l")], [TOCText.link("l", "./l")],
            [TOCText.file("l"), TOCText.link("l", "l")], [TOCText.file(".wh.w"), TOCText.link("l", "w")],
            [TOCText.file("f"), TOCText.link("l", "f/below")], [TOCText.link("l", ".prefetch.landmark")],
            [TOCText.link("l", "../../l")],
        ])
    func badLinks(_ entries: [String]) {
        let error = formatError { _ = try LayerTree.parse(entries: entries) }
        #expect(error?.code == .badEntry && error?.entry == "l", "\(String(describing: error))")
    }

    @Test("attributes")
    func attributes() throws {
        let tree = try LayerTree.parse(entries: [
            TOCText.entry("char", "c", "\"mode\":438,\"devMajor\":4095,\"devMinor\":1048575"),
            TOCText.entry("block", "b", "\"mode\":33200,\"devMajor\":8,\"devMinor\":256"),
            TOCText.entry(
                "symlink", "s",
                "\"linkName\":\"../\\u00fc\",\"mode\":0,\"uid\":4294967295,\"xattrs\":{\"user.nobody\":\"AA==\"}"),
            TOCText.entry("fifo", "p", "\"mode\":4095,\"modtime\":\"1969-12-31T23:59:59.75Z\""),
            TOCText.file("x") + ",\"xattrs\":{\"user.b\":\"AAEC\",\"user.a\":\"\",\"trusted.overlay.opaque\":\"eQ==\","
                + "\"user.overlay.redirect\":\"eQ==\",\"user.b\":\"/w==\",\"security.capability\":null}",
        ])
        let device = tree.nodes[Int(try #require(tree.node(at: "c")))].device
        #expect(device == 0xfff << 8 | 0xff | 0xfff00 << 12)
        let block = tree.nodes[Int(try #require(tree.node(at: "b")))]
        #expect(block.mode == 0o60660 && block.device == 8 << 8 | 0x100 << 12)
        let symlink = try #require(tree.node(at: "s"))
        #expect(tree.nodes[Int(symlink)].mode == 0o120777 && tree.nodes[Int(symlink)].size == 5)
        #expect(
            tree.nodes[Int(symlink)].uid == .max && tree.target(of: symlink).map { Array($0) } == Array("../ü".utf8))
        let pipe = tree.nodes[Int(try #require(tree.node(at: "p")))]
        #expect(pipe.mode == 0o17777 && pipe.mtimeSeconds == -1 && pipe.mtimeNanoseconds == 750_000_000)
        let attributes = tree.xattrs.map {
            (String(decoding: tree.name(of: $0), as: UTF8.self), Array(tree.value(of: $0)))
        }
        #expect(attributes.map(\.0) == ["security.capability", "user.a", "user.b"])
        #expect(attributes.map(\.1) == [[], [], [255]])
    }

    @Test("names are bytes")
    func nameBytes() throws {
        var json = Array("{\"entries\":[{\"type\":\"reg\",\"name\":\"".utf8)
        json += [0xff, 0xfe, 0x80]
        json += Array("\\u00e9\\ud83d\\ude00\\ud800x\\/y\"}]}".utf8)
        let tree = try json.withUnsafeBytes { try LayerTree.parse(toc: $0, tocOffset: 1, format: .estargz) }
        let directory = try #require(tree.dirents.first { $0.parent == 0 })
        #expect(Array(tree.name(of: directory)) == [0xff, 0xfe, 0x80] + Array("é😀\u{FFFD}x".utf8))
    }
}

@Suite("files, chunks and contents of a layer")
struct LayerContentTests {
    @Test("chunks come in any order, share members, and end where the next member begins")
    func chunks() throws {
        let tree = try LayerTree.parse(
            entries: [
                TOCText.head("f", 10, 4), TOCText.chunk("f", 8, 0, at: 300), TOCText.chunk("./f", 4, 4, at: 200),
                TOCText.file("s1", 5, at: 400, digest: "1"),
                TOCText.file("s2", 6, at: 400, digest: "2") + ",\"innerOffset\":512",
                TOCText.file("last", 1, at: 900, digest: "3"),
            ], tocOffset: 1000)
        #expect(tree.chunks.map(\.offset) == [0, 4, 8, 0, 0, 0])
        #expect(tree.chunks.map(\.size) == [4, 4, 2, 5, 6, 1])
        #expect(tree.chunks.map(\.blobOffset) == [100, 200, 300, 400, 400, 900])
        #expect(tree.chunks.map(\.blobSize) == [100, 100, 100, 500, 500, 100])
        #expect(tree.chunks.map(\.innerOffset) == [0, 0, 0, 0, 512, 0])
    }

    @Test("a chunk may leave out its name, as the first writers did")
    func namelessChunk() throws {
        let tree = try LayerTree.parse(entries: [TOCText.head("f", 8, 4), TOCText.chunk("", 4, 4)])
        #expect(tree.contents.map(\.chunks) == [0..<2])
    }

    @Test("equal bytes are one content; another chunk list is another")
    func sharing() throws {
        let tree = try LayerTree.parse(entries: [
            TOCText.file("a", 8, at: 10), TOCText.file("b", 8, at: 20), TOCText.file("other", 8, at: 30, digest: "b"),
            TOCText.head("c", 8, 4), TOCText.chunk("c", 4, 4), TOCText.head("d", 8, 4), TOCText.chunk("d", 4, 4),
            TOCText.head("e", 8, 5), TOCText.chunk("e", 5, 3), TOCText.file("size", 9, at: 40),
        ])
        func content(_ name: String) throws -> Int32 { tree.nodes[Int(try #require(tree.node(at: name)))].content }
        #expect(try content("a") == content("b") && content("c") == content("d"))
        #expect(Set(try ["a", "other", "c", "e", "size"].map(content)).count == 5)
        #expect(tree.contents.count == 5 && tree.chunks.count == 7 && tree.chunks[0].blobOffset == 10)
        #expect(tree.node(at: "a") != tree.node(at: "b"))
    }

    @Test("an empty file has no content, whatever its digest says")
    func emptyFile() throws {
        let tree = try LayerTree.parse(entries: [TOCText.file("e") + ",\"chunkDigest\":\"\(TOCText.digest("b"))\""])
        #expect(tree.nodes[1].content == -1 && tree.contents.isEmpty)
    }

    @Test("one digest is enough for a file of one chunk")
    func oneDigest() throws {
        let bare = "\"type\":\"reg\",\"size\":5,\"offset\":1,\"name\":\"f\""
        for field in ["digest", "chunkDigest"] {
            let tree = try LayerTree.parse(entries: [bare + ",\"\(field)\":\"\(TOCText.digest("7"))\""])
            #expect(tree.contents.first?.digest.description == TOCText.digest("7"))
            #expect(tree.chunks.first?.digest == tree.contents.first?.digest)
        }
        #expect(formatError { _ = try LayerTree.parse(entries: [bare]) }?.code == .unsupported)
    }

    static let bad: [([String], FormatError.Code)] = [
        ([TOCText.head("f", 10, 4), TOCText.chunk("f", 5, 5)], .badEntry),  // gap
        ([TOCText.head("f", 10, 4), TOCText.chunk("f", 3, 7)], .badEntry),  // overlap
        ([TOCText.head("f", 10, 4), TOCText.chunk("f", 4, 4)], .badEntry),  // too short
        ([TOCText.head("f", 10, 4), TOCText.chunk("f", 4, 7)], .badEntry),  // too long
        ([TOCText.head("f", 10, 4), TOCText.chunk("f", 4, 6), TOCText.chunk("f", 4, 6)], .badEntry),
        ([TOCText.head("f", 10, 10), TOCText.chunk("f", 10, 0)], .badEntry),  // empty
        ([TOCText.head("f", 10, 0), TOCText.chunk("f", 5, 5)], .badEntry),
        ([TOCText.head("f", 10, 4), TOCText.chunk("f", 4, Int.max)], .badEntry),
        ([TOCText.head("f", 10, 4), TOCText.chunk("f", Int.max, 1)], .badEntry),
        ([TOCText.head("f", 10, 4), TOCText.chunk("f", -4, 4)], .badEntry),
        ([TOCText.head("f", 10, 4), TOCText.chunk("f", 4, -1)], .badEntry),
        ([TOCText.head("f", 10, 4), TOCText.chunk("g", 4, 6)], .badEntry),  // another's
        ([TOCText.chunk("f", 0, 6)], .badEntry),  // nobody's
        ([TOCText.head("f", 10, 4), TOCText.file("g"), TOCText.chunk("f", 4, 6)], .badEntry),
        ([TOCText.file("f"), TOCText.chunk("f", 0, 1)], .badEntry),
        ([TOCText.file("f", -1)], .badEntry), ([TOCText.file("f", Int.max)], .badEntry),
        ([TOCText.file("f", 1 << 62)], .tooLarge),
        ([TOCText.file("f", 1, at: -1)], .badEntry), ([TOCText.file("f", 1, at: 1 << 40)], .badEntry),
        ([TOCText.file("f", 5) + ",\"innerOffset\":-1"], .tooLarge),
        ([TOCText.file("f", 5) + ",\"innerOffset\":\(Int.max)"], .tooLarge),
        ([TOCText.file("f", 5) + ",\"chunkDigest\":\"\(TOCText.digest("b"))\""], .digestMismatch),
        ([TOCText.file("f", 10) + ",\"chunkSize\":4", TOCText.chunk("f", 4, 6)], .unsupported),
    ]

    @Test("files whose chunks do not tile them, and chunks of nothing, are errors", arguments: bad)
    func badFiles(_ entries: [String], _ code: FormatError.Code) {
        let error = formatError { _ = try LayerTree.parse(entries: entries + [TOCText.entry("dir", "after")]) }
        #expect(error?.code == code, "\(String(describing: error))")
        #expect(error?.entry == "f" || error?.entry == "g")
    }
}
