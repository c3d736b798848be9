import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaPodman

@Suite("The files of an image store")
struct ImageStoreFilesTests {
    private static func layer(_ name: String) -> ShownLayer {
        ShownLayer(
            id: .of(name), parent: nil, lowers: [], directory: "/fs/\(name)", diffID: .of(name), tarSize: 1, blob: nil,
            blobSize: 1, compression: 2, tarSplit: nil)
    }

    private static func image(_ name: String, above layer: String, names: [String] = []) -> ShownImage {
        ShownImage(
            id: .of("\(name) image"), names: names, top: .of(layer), manifest: Array("{}".utf8),
            config: Array(name.utf8), created: StorageTime.unknown)
    }

    private static func list(_ path: String) throws -> [JSON] {
        guard case .array(let items) = try JSON.parse(try readFile(path)) else { return [] }
        return items
    }

    private static func text(_ value: JSON?) -> String? { if case .string(let text)? = value { text } else { nil } }

    @Test(
        "an image in the list has its layer in the other, wherever a change of both ends",
        arguments: ["overlay-layers/layers.json", "overlay-images/images.json", "none"])
    func order(_ broken: String) throws {
        let directory = try temporaryDirectory("images")
        defer { removeTree(directory) }
        let files = ImageStoreFiles(directory: directory)
        try files.prepare()
        try files.write(
            [Self.layer("a"), Self.layer("b")],
            [Self.image("a", above: "a"), Self.image("b", above: "b", names: ["x"])])
        // One image goes, one comes, and one has another name. A directory in the way of a file stands for a full disk.
        let obstacle = "\(directory)/\(broken).new"
        try createDirectories(obstacle)
        let change = {
            try files.write(
                [Self.layer("b"), Self.layer("c")],
                [Self.image("b", above: "b", names: ["y"]), Self.image("c", above: "c")])
        }
        if broken == "none" { try change() } else { #expect(throws: SystemError.self) { try change() } }
        func check(_ count: Int?) throws {
            let layers = Set(try Self.list(directory + "/overlay-layers/layers.json").map { Self.text($0["id"]) })
            let images = try Self.list(directory + "/overlay-images/images.json")
            #expect(images.allSatisfy { layers.contains(Self.text($0["layer"])) })
            if let count { #expect(images.count == count && layers.count == 2) }
        }
        try check(nil)
        rmdir(obstacle)
        try change()
        try check(2)
        #expect(access("\(directory)/overlay/\(Digest.of("a").hex)", F_OK) != 0)
    }

    @Test("what a kill leaves in the first moment is lamina's own, and what it leaves of a layer goes with it")
    func leftovers() throws {
        let directory = try temporaryDirectory("images")
        defer { removeTree(directory) }
        try replaceFile(directory + "/lamina-image-store.new", with: [1], mode: 0o600)
        let files = ImageStoreFiles(directory: directory)
        try files.prepare()
        #expect(access(directory + "/lamina-image-store", F_OK) == 0)
        try files.write([Self.layer("a"), Self.layer("b")], [])
        let place = "\(directory)/overlay/\(Digest.of("a").hex)"
        #expect(symlink("/fs/a", place + "/diff.new") == 0)
        try replaceFile(place + "/lower.new", with: [1], mode: 0o600)
        try files.write([Self.layer("b")], [])
        #expect(access(place, F_OK) != 0)
    }

    @Test("a directory with anything else in it is somebody else's", arguments: ["other", "lamina-image-store.new2"])
    func foreign(_ name: String) throws {
        let directory = try temporaryDirectory("images")
        defer { removeTree(directory) }
        try replaceFile("\(directory)/\(name)", with: [1], mode: 0o600)
        try replaceFile(directory + "/lamina-image-store.new", with: [1], mode: 0o600)
        #expect(throws: PodmanError.self) { try ImageStoreFiles(directory: directory).prepare() }
    }
}
