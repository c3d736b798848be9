import Glibc
import LaminaSystem
import LaminaTOML

/// `storage.conf`: what podman, buildah, skopeo and CRI-O keep where (containers-storage.conf(5)).
public struct StorageConfiguration: Sendable, Equatable {
    public var path: String
    public var driver: String?
    public var graphRoot: String?
    public var runRoot: String?
    /// Where images are kept, if not with the containers.
    public var imageStore: String?
    public var imageStores: [String] = []

    /// Where it is looked for, for root: the first that is there counts, and it alone.
    public static let places = ["/etc/containers/storage.conf", "/usr/share/containers/storage.conf"]
    /// What holds where none says otherwise.
    public static let standardGraphRoot = "/var/lib/containers/storage"
    public static let standardRunRoot = "/run/containers/storage"

    private static let byteLimit = 1 << 20

    /// - Throws: `PodmanError.unreadable`, naming the line.
    public init(parsing bytes: [UInt8], path: String) throws(PodmanError) {
        self.path = path
        do throws(TOMLError) {
            let root = TOMLSection(table: try TOMLTable.parse(bytes), name: "", path: path)
            guard let storage = try root.section("storage") else { return }
            driver = try storage.string("driver")
            graphRoot = try storage.string("graphroot")
            runRoot = try storage.string("runroot")
            imageStore = try storage.string("imagestore")
            imageStores = try storage.section("options")?.strings("additionalimagestores") ?? []
        } catch {
            throw PodmanError.unreadable(path, error.text(in: path))
        }
    }

    /// The one that podman reads; nil where there is none.
    public static func ofMachine(_ places: [String] = places) throws(PodmanError) -> StorageConfiguration? {
        for path in places {
            if let bytes = try read(path) { return try StorageConfiguration(parsing: bytes, path: path) }
        }
        return nil
    }

    private static func read(_ path: String) throws(PodmanError) -> [UInt8]? {
        do throws(SystemError) {
            return try readFile(path, limit: byteLimit)
        } catch {
            if error.code == ENOENT { return nil }
            throw PodmanError.unreadable(path, "\(error)")
        }
    }

    /// The graph roots of this machine, as far as its configuration says: root's own, and those that are named.
    ///
    /// - Throws: `PodmanError.unreadable`: another graph root than the standard one may be in a file that cannot be read.
    public static func graphRoots(_ named: [String], places: [String] = places) throws(PodmanError) -> [String] {
        try records(named, places: places).map(\.path)
    }

    /// The same, each with what belongs to it: containers/storage keeps images below `imagestore`, and with `transient_store` containers
    /// below `runroot`, by the same names.
    static func records(_ named: [String], places: [String] = places) throws(PodmanError) -> [GraphRoot] {
        let found = try ofMachine(places)
        func path(_ path: String?, _ standard: String) -> String { path.flatMap { $0.isEmpty ? nil : $0 } ?? standard }
        var own = GraphRoot(path: path(found?.graphRoot, standardGraphRoot))
        own.others = [path(found?.imageStore, own.path), path(found?.runRoot, standardRunRoot)].filter {
            $0 != own.path
        }
        return [own] + named.filter { $0 != own.path }.map { GraphRoot(path: $0) }
    }
}

extension StorageConfiguration {
    /// A file that podman reads where there was none before: a file with options and without these is refused by podman.
    private static let fresh = """
        # Made by 'lamina setup podman'; 'lamina setup podman --undo' takes it away.
        [storage]
        driver = "overlay"
        graphroot = "/var/lib/containers/storage"
        runroot = "/run/containers/storage"

        """

    /// The text with one more image store, and everything else as it was.
    ///
    /// - Parameter text: nil: there is no file.
    /// - Returns: nil where it is in there already.
    /// - Throws: `PodmanError.unreadable` for a text that cannot be changed with certainty; it says what to write by hand.
    public static func adding(_ store: String, to text: String?, path: String) throws(PodmanError) -> String? {
        let text = text ?? fresh
        let before = try StorageConfiguration(parsing: Array(text.utf8), path: path)
        if before.imageStores.contains(store) { return nil }
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        let entry = "\"\(store)\""
        if let start = lines.firstIndex(where: { isKey($0, "additionalimagestores") }) {
            // Inserted behind the bracket. The directories that the list has already follow it.
            if let bracket = lines[start].firstIndex(of: "[") {
                let separator = before.imageStores.isEmpty ? "" : ", "
                lines[start].insert(contentsOf: entry + separator, at: lines[start].index(after: bracket))
            }
        } else if let header = lines.firstIndex(where: { isHeader($0, "storage.options") }) {
            lines.insert("additionalimagestores = [\(entry)]", at: header + 1)
        } else {
            // In front of the tables below it: they would end it.
            let place = lines.firstIndex { $0.trimmed.hasPrefix("[storage.options.") } ?? lines.count
            if place == lines.count, lines.last == "" { lines.removeLast() }
            lines.insert(
                contentsOf: ["[storage.options]", "additionalimagestores = [\(entry)]", ""],
                at: min(place, lines.count))
        }
        return try checked(lines, path, before) { $0.imageStores = [store] + before.imageStores }
    }

    /// The text without an image store.
    ///
    /// - Returns: nil where it is not in there; an empty text where nothing is left of what `adding` made.
    /// - Throws: as `adding`.
    public static func removing(_ store: String, from text: String, path: String) throws(PodmanError) -> String? {
        let before = try StorageConfiguration(parsing: Array(text.utf8), path: path)
        guard before.imageStores.contains(store) else { return nil }
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        let entry = "\"\(store)\""
        if let start = lines.firstIndex(where: { isKey($0, "additionalimagestores") }) {
            for index in start..<lines.count where lines[index].contains(entry) {
                for form in [entry + ", ", entry + ",", ", " + entry, entry] where lines[index].contains(form) {
                    lines[index] = lines[index].replacing(form, with: "")
                    break
                }
                break
            }
            if before.imageStores.count == 1, lines[start].filter({ $0 != " " }) == "additionalimagestores=[]" {
                lines.remove(at: start)
            }
        }
        let result = try checked(lines, path, before) { $0.imageStores.removeAll { $0 == store } }
        return result.hasPrefix(fresh) && !result.dropFirst(fresh.count).contains("=") ? "" : result
    }

    private static func checked(
        _ lines: [String], _ path: String, _ before: StorageConfiguration,
        _ change: (inout StorageConfiguration) -> Void
    ) throws(PodmanError) -> String {
        let text = lines.joined(separator: "\n")
        var expected = before
        change(&expected)
        guard let found = try? StorageConfiguration(parsing: Array(text.utf8), path: path), found == expected else {
            throw PodmanError.unreadable(
                path,
                "its form is one that lamina does not change. Set additionalimagestores of [storage.options] by hand to "
                    + "[\(expected.imageStores.map { "\"\($0)\"" }.joined(separator: ", "))]")
        }
        return text
    }

    private static func isKey(_ line: String, _ key: String) -> Bool {
        let text = line.trimmed
        return text.hasPrefix(key) && text.dropFirst(key.count).drop { $0 == " " || $0 == "\t" }.first == "="
    }

    private static func isHeader(_ line: String, _ name: String) -> Bool {
        line.prefix { $0 != "#" }.filter { $0 != " " && $0 != "\t" } == "[\(name)]"
    }
}

extension String {
    fileprivate var trimmed: Substring { drop { $0 == " " || $0 == "\t" } }
}
