import Testing

@testable import LaminaFormats

/// One archive, read as a layer's tree and placed for a new one.
@Suite("names that lead through symbolic links of their own layer")
struct LinkedPathTests {
    /// The paths of a tree without its directories, sorted.
    private func paths(_ tree: LayerTree) -> [String] {
        func below(_ directory: Int32, _ prefix: String) -> [String] {
            tree.dirents(of: directory).flatMap { index -> [String] in
                let dirent = tree.dirents[index]
                let path = prefix + String(decoding: tree.name(of: dirent), as: UTF8.self)
                let isDirectory = tree.nodes[Int(dirent.node)].mode & 0o170000 == 0o040000
                return isDirectory ? [path + "/"] + below(dirent.node, path + "/") : [path]
            }
        }
        return below(0, "").sorted()
    }

    private static func header(_ text: String) -> TarHeader {
        if let arrow = text.firstRange(of: " -> ") {
            return TarHeader(
                kind: .symbolicLink, name: Array(text[..<arrow.lowerBound].utf8),
                linkName: Array(text[arrow.upperBound...].utf8))
        }
        if let equals = text.firstRange(of: " = ") {
            return TarHeader(
                kind: .hardLink, name: Array(text[..<equals.lowerBound].utf8),
                linkName: Array(text[equals.upperBound...].utf8))
        }
        return TarHeader(kind: text.hasSuffix("/") ? .directory : .regular, name: Array(text.utf8))
    }

    private static func lines(_ headers: [TarHeader]) throws -> LayerTree {
        var lines: [UInt8] = []
        for header in headers {
            EntryLines.append(TarEntry(header: header, offset: 0, payloadOffset: 0), digest: nil, to: &lines)
        }
        let document = try EntryLines.document([EntryLines.pack(lines)])
        return try document.withUnsafeBytes { try LayerTree.parse(entries: $0, tarSize: 0, format: .plainTar) }
    }

    static let archives: [([String], [String])] = [
        (["usr/lib/", "lib -> usr/lib", "lib/libx.so"], ["lib", "usr/", "usr/lib/", "usr/lib/libx.so"]),
        (["lib -> usr/lib", "lib/libx.so"], ["lib", "usr/", "usr/lib/", "usr/lib/libx.so"]),
        (
            ["lib -> /usr/lib/", "lib/a", "lib/d/", "lib/d/b"],
            ["lib", "usr/", "usr/lib/", "usr/lib/a", "usr/lib/d/", "usr/lib/d/b"]
        ),
        // Through two links, and one that climbs: never above the root.
        (["a -> b", "b -> ../../c", "a/x"], ["a", "b", "c/", "c/x"]),
        (["d/", "d/l -> ../e", "d/l/x", "e/f -> /d", "d/l/f/y"], ["d/", "d/l", "d/y", "e/", "e/f", "e/x"]),
        (
            ["bin -> usr/bin", "usr/bin/sh", "bin/ls = bin/sh", "x = bin/sh"],
            ["bin", "usr/", "usr/bin/", "usr/bin/ls", "usr/bin/sh", "x"]
        ),
        // A link to a link leads where that one leads; what replaced a link counts from then on.
        (["l -> d", "m = l", "m/x", "d/y"], ["d/", "d/x", "d/y", "l", "m"]),
        (["l -> d", "l/x", "l/", "l/y"], ["d/", "d/x", "l/", "l/y"]),
        (["l -> d", "l/x", "l -> e", "l/y"], ["d/", "d/x", "e/", "e/y", "l"]),
        (["d/a", "d -> e", "d/b"], ["d", "e/", "e/b"]),
        // A whiteout through a link, and climbing names.
        (["l -> d", "l/.wh.x"], ["d/", "d/x", "l"]),
        (["a/../up", "d/f", "h = d/../d/f", "../over"], ["d/", "d/f", "h", "over", "up"]),
        (["", "./", "a/..", "x = y/../z", "z"], ["x", "z"]),
    ]

    @Test("both readings go through them, from the layer's root", arguments: archives)
    func through(_ archive: [String], _ expected: [String]) throws {
        let headers = archive.map(Self.header)
        #expect(try paths(Self.lines(headers)) == expected)
        var places = LayerPaths()
        var placed: [TarHeader] = []
        for var header in headers where try places.place(&header) { placed.append(header) }
        #expect(try paths(Self.lines(placed)) == expected)
        // A reader that does not know links now reads the same.
        #expect(placed.allSatisfy { !Tar.climbs($0.name) && !Tar.climbs($0.linkName) || $0.kind == .symbolicLink })
    }

    @Test(
        "rings, what lies below files, and paths that grow without end are errors for both",
        arguments: [
            ["a -> b", "b -> a", "a/x"], ["a -> a/a", "a/x"], ["f", "f/x"], ["l -> f", "f", "l/x"],
            ["f", "h = f", "h/x"],
        ])
    func refused(_ archive: [String]) {
        let headers = archive.map(Self.header)
        #expect(formatError { _ = try Self.lines(headers) }?.code == .badEntry)
        let error = formatError {
            var places = LayerPaths()
            for var header in headers { _ = try places.place(&header) }
        }
        #expect(error?.code == .badEntry && error?.entry == archive.last)
    }
}
