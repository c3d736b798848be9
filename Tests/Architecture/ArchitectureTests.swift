import Foundation
import Testing

/// The rooms and their arrows, as in docs/ARCHITECTURE.md.
private let arrows: [String: Set<String>] = [
    "LaminaDigest": ["CCrypto"],
    "LaminaSystem": ["CLinux"],
    "LaminaTOML": [],
    "LaminaSQLite": ["CSQLite"],
    "LaminaSchema": [],
    "LaminaOCI": ["LaminaDigest", "LaminaSystem", "LaminaTOML", "CCurl"],
    "LaminaFormats": ["LaminaDigest", "LaminaSystem", "CZlib", "CDeflate", "CZstd", "CISAL"],
    "LaminaConvert": ["LaminaDigest", "LaminaSystem", "LaminaOCI", "LaminaFormats"],
    "LaminaSeal": ["LaminaSystem"],
    "LaminaStore": ["LaminaDigest", "LaminaSystem", "LaminaSQLite", "LaminaSchema", "LaminaSeal"],
    "LaminaMerge": ["LaminaDigest", "LaminaSystem", "LaminaOCI", "LaminaFormats", "LaminaStore"],
    "LaminaFUSE": ["LaminaSystem", "CFuse"],
    "LaminaFilesystem": ["LaminaSystem", "LaminaSeal", "LaminaFUSE", "LaminaStore", "LaminaMerge"],
    "LaminaSnapshotter": ["LaminaDigest", "LaminaSystem", "LaminaOCI", "LaminaStore", "LaminaMerge"],
    "LaminaPodman": ["LaminaDigest", "LaminaSystem", "LaminaTOML", "LaminaOCI", "LaminaStore"],
    "LaminaContainerd": ["LaminaSystem", "LaminaOCI", "LaminaStore", "LaminaSnapshotter"],
]

private let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

@Suite("The rooms keep their walls")
struct ArchitectureTests {
    @Test("every room depends on the rooms that it may and no others")
    func dependencies() throws {
        let declared = try targets()
        for (room, allowed) in arrows {
            let found = try #require(declared[room], "\(room) is in Package.swift")
            #expect(found.isSubset(of: allowed), "\(room) has arrows that it may not: \(found.subtracting(allowed))")
        }
    }

    @Test("every file imports only rooms that its own room declares")
    func imports() throws {
        let rooms = try targets()
        for file in try swiftFiles() {
            let room = file.room
            guard let allowed = rooms[room] else { continue }
            let imported = try imports(of: file.url).filter { rooms[$0] != nil }
            #expect(imported.isSubset(of: allowed), "\(file.url.lastPathComponent) of \(room): \(imported)")
        }
    }

    @Test("SQL is in the store's rooms only")
    func sql() throws {
        let homes: Set<String> = ["LaminaStore", "LaminaSQLite", "LaminaSchema"]
        let statement = #/"\s*(SELECT|INSERT|UPDATE|DELETE|CREATE TABLE|PRAGMA) /#
        for file in try swiftFiles() where !homes.contains(file.room) {
            let text = try String(contentsOf: file.url, encoding: .utf8)
            #expect(text.firstMatch(of: statement) == nil, "\(file.url.lastPathComponent) of \(file.room) has SQL")
        }
    }

    @Test("nothing forces what can fail, and every unchecked promise says why")
    func promises() throws {
        for file in try swiftFiles() {
            let lines = try String(contentsOf: file.url, encoding: .utf8).split(
                separator: "\n", omittingEmptySubsequences: false)
            for (number, line) in lines.enumerated() {
                let place = "\(file.url.lastPathComponent):\(number + 1)"
                let code = line.prefix { $0 != "/" }
                #expect(!code.contains("try!") && !code.contains(" as! "), "\(place)")
                guard code.contains("@unchecked Sendable") || code.contains("nonisolated(unsafe)") else { continue }
                let near = lines[max(0, number - 4)...min(lines.count - 1, number + 4)]
                #expect(near.contains { $0.contains("//") }, "\(place) makes a promise without a reason")
            }
        }
    }

    // MARK: Reading the package

    private struct File {
        var url: URL
        var room: String
    }

    /// Each target of Package.swift with the targets that it depends on.
    private func targets() throws -> [String: Set<String>] {
        let scratch = FileManager.default.temporaryDirectory.appending(path: "lamina-dump-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: scratch) }
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        // A separate scratch path: the usual one may be locked by the process that runs these tests.
        process.arguments = [
            "swift", "package", "--package-path", root.path, "--scratch-path", scratch.path, "dump-package",
        ]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try process.run()
        let json = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        let package = try JSONDecoder().decode(Package.self, from: json)
        var result: [String: Set<String>] = [:]
        for target in package.targets where target.type != "test" {
            result[target.name] = Set(target.dependencies.compactMap(\.name))
        }
        return result
    }

    private struct Package: Decodable {
        var targets: [Target]

        struct Target: Decodable {
            var name: String
            var type: String
            var dependencies: [Dependency]
        }

        struct Dependency: Decodable {
            /// `byName: [name, condition]`, or `target: [name, condition]` for one that a trait brings; products of other packages
            /// are no rooms. The condition is a table.
            var name: String?

            init(from decoder: any Decoder) throws {
                let container = try decoder.container(keyedBy: Key.self)
                for key in [Key.byName, .target] where container.contains(key) {
                    var values = try container.nestedUnkeyedContainer(forKey: key)
                    name = try values.decode(String.self)
                }
            }

            enum Key: String, CodingKey { case byName, target }
        }
    }

    private func swiftFiles() throws -> [File] {
        var files: [File] = []
        for (folder, room) in [("Sources", nil), ("schema", "LaminaSchema" as String?)] {
            let base = root.appending(path: folder)
            let found = FileManager.default.enumerator(at: base, includingPropertiesForKeys: nil)
            for case let url as URL in try #require(found)
            where url.pathExtension == "swift" {
                let components = url.path.dropFirst(base.path.count + 1).split(separator: "/")
                files.append(File(url: url, room: room ?? String(components[0])))
            }
        }
        try #require(files.count > 50)
        return files
    }

    private func imports(of url: URL) throws -> Set<String> {
        let text = try String(contentsOf: url, encoding: .utf8)
        return Set(
            text.matches(of: #/(?m)^(?:public |package |internal )?import (?:struct |class |func )?(\w+)/#).map {
                String($0.1)
            })
    }
}
