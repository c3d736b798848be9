import Foundation
import Testing

@testable import LaminaTOML

@Suite("config/containerd")
struct SnippetTests {
    private static let directory = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appending(path: "config/containerd")

    /// The value at a path of keys; nil where there is none.
    private func value(_ table: TOMLTable, _ path: [String]) -> TOMLValue? {
        guard let entry = path.first.flatMap({ table.entries[$0] }) else { return nil }
        if path.count == 1 { return entry.value }
        if case .table(let inner) = entry.value { return value(inner, Array(path.dropFirst())) }
        return nil
    }

    private func document(_ name: String) throws -> TOMLTable {
        try TOMLTable.parse(Array(Data(contentsOf: Self.directory.appending(path: name + ".toml"))))
    }

    @Test(
        "each snippet names the socket that lamina's own configuration has, and what a lazy pull takes in that version",
        arguments: [
            ("containerd-1.6", 2, "io.containerd.grpc.v1.cri", ["containerd"], true),
            ("containerd-2.0", 3, "io.containerd.cri.v1.images", [], true),
            ("containerd-2.1", 3, "io.containerd.cri.v1.images", [], false),
        ] as [(String, Int64, String, [String], Bool)])
    func snippets(name: String, version: Int64, plugin: String, below: [String], hasAnnotations: Bool) throws {
        let document = try document(name)
        #expect(value(document, ["version"]) == .integer(version))
        #expect(value(document, ["proxy_plugins", "lamina", "type"]) == .string("snapshot"))
        #expect(value(document, ["proxy_plugins", "lamina", "address"]) == .string("/run/lamina/lamina.sock"))
        let images = ["plugins", plugin] + below
        #expect(value(document, images + ["snapshotter"]) == .string("lamina"))
        let annotations = value(document, images + ["disable_snapshot_annotations"])
        #expect(annotations == (hasAnnotations ? .boolean(false) : nil))
        let exports = ["proxy_plugins", "lamina", "exports"]
        #expect(
            value(document, exports + ["enable_remote_snapshot_annotations"])
                == (hasAnnotations ? nil : .string("true")))
        if version == 3 { #expect(value(document, exports + ["root"]) == .string("/var/lib/lamina")) }
    }

    @Test("of 2.1 and newer the transfer service may unpack for lamina, and for overlayfs as before")
    func transfer() throws {
        guard case .table(let plugins) = value(try document("containerd-2.1"), ["plugins"]),
            case .table(let transfer) = value(plugins, ["io.containerd.transfer.v1.local"])
        else {
            Issue.record("there is no table of the transfer service")
            return
        }
        let tables = try #require(transfer.entries["unpack_config"]).tables
        #expect(tables.map { value($0, ["snapshotter"]) } == [.string("lamina"), .string("overlayfs")])
        #expect(tables.allSatisfy { value($0, ["platform"]) == .string("linux") })
    }
}
