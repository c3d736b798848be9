import Glibc
import LaminaOCI
import LaminaSystem
import LaminaTOML

/// A configuration as a file gave it, with what should be said about the file.
public struct ConfigurationFile: Sendable, Equatable {
    public var configuration = Configuration()
    /// The file; nil where there is none and the defaults hold.
    public var path: String?
    /// Sentences that an operator should see once.
    public var notices: [String] = []
    /// Keys of stargz-snapshotter's file that have no meaning here.
    public var ignoredKeys: [String] = []

    /// A configuration has a page or two; more is a mistake, or an attack.
    public static let sizeLimit = 1 << 20

    /// Without a file.
    public init() {}

    /// Reads the file that is named, else `/etc/lamina/config.toml` where it exists.
    ///
    /// - Throws: `configuration`, naming file and key.
    public static func load(_ path: String?) throws(DaemonError) -> ConfigurationFile {
        if path == nil, access(Configuration.defaultPath, F_OK) != 0, errno == ENOENT { return ConfigurationFile() }
        let path = absolutePath(path ?? Configuration.defaultPath)
        let bytes: [UInt8]
        do {
            bytes = try readFile(path, limit: sizeLimit)
        } catch {
            let reason = error.code == EFBIG ? "it is larger than \(sizeLimit) bytes" : SystemError.text(of: error.code)
            throw DaemonError(.configuration, "cannot read the configuration \(path): \(reason)")
        }
        return try ConfigurationFile(parsing: bytes, path: path)
    }

    /// Reads a file's bytes.
    ///
    /// - Throws: `configuration`, naming file and key.
    public init(parsing bytes: [UInt8], path: String) throws(DaemonError) {
        guard bytes.count <= Self.sizeLimit else {
            throw DaemonError(.configuration, "the configuration \(path) is larger than \(Self.sizeLimit) bytes")
        }
        self.path = path
        do throws(TOMLError) {
            try read(TOMLSection(table: try TOMLTable.parse(bytes), name: "", path: path))
        } catch {
            throw DaemonError(.configuration, error.text(in: path))
        }
    }

    private mutating func read(_ root: TOMLSection) throws(TOMLError) {
        if let fuse = try root.section("fuse") { try readFUSE(fuse) }
        if let cache = try root.section("directory_cache") { try readDirectoryCache(cache) }
        if let store = try root.section("store") {
            if let root = try store.string("root") {
                guard root.hasPrefix("/") else { throw store.wrong("root", "must be an absolute path, is '\(root)'") }
                configuration.store.root = root
            }
            if let value = try store.integer("max_bytes", minimum: 0) { configuration.store.maxBytes = Int64(value) }
            if let level = try choice(of: Configuration.StoreSection.Level.self, "require", in: store) {
                configuration.store.require = level
            }
            if let value = try choice(of: Configuration.StoreSection.Verification.self, "verification", in: store) {
                configuration.store.verification = value
            }
            ignoredKeys += try store.finish(ignoring: [])
        }
        if let log = try root.section("log") {
            if let text = try log.string("level") {
                guard let level = LogLevel.parse(text) else {
                    throw log.wrong("level", "must be one of \(LogLevel.names.joined(separator: ", ")), is '\(text)'")
                }
                configuration.log.level = level
            }
            ignoredKeys += try log.finish(ignoring: [])
        }
        if let metrics = try root.section("metrics") {
            if let text = try metrics.string("address"), !text.isEmpty {
                guard let address = ListenAddress(text) else {
                    throw metrics.wrong("address", "must be HOST:PORT or empty, as 127.0.0.1:9323, is '\(text)'")
                }
                configuration.metrics.address = address
            }
            ignoredKeys += try metrics.finish(ignoring: [])
        }
        if let http = try root.section("http") {
            configuration.http.plain = try http.strings("plain") ?? configuration.http.plain
            ignoredKeys += try http.finish(ignoring: [])
        }
        if let resolver = try root.section("resolver") {
            if let path = try resolver.string("creds_file"), !path.isEmpty {
                guard path.hasPrefix("/") else {
                    throw resolver.wrong("creds_file", "must be an absolute path, is '\(path)'")
                }
                configuration.resolver.credentialsFile = path
            }
            if let seconds = try resolver.integer("request_timeout_sec", minimum: 0), seconds > 0 {
                configuration.resolver.requestTimeoutSeconds = seconds
            }
            ignoredKeys += try configuration.resolver.hosts.read(resolver)
        }
        ignoredKeys += try root.finish(ignoring: StargzKeys.root)
    }

    /// A value that is one of a few words.
    private func choice<Value: RawRepresentable & CaseIterable>(
        of type: Value.Type, _ key: String, in section: TOMLSection
    ) throws(TOMLError) -> Value? where Value.RawValue == String {
        guard let text = try section.string(key) else { return nil }
        guard let value = Value(rawValue: text) else {
            let words = Value.allCases.map(\.rawValue).joined(separator: ", ")
            throw section.wrong(key, "must be one of \(words), is '\(text)'")
        }
        return value
    }

    private mutating func readFUSE(_ fuse: TOMLSection) throws(TOMLError) {
        if let value = try fuse.bool("passthrough") { configuration.fuse.passthrough = value }
        if let value = try fuse.bool("busy_wait") { configuration.fuse.busyWait = value }
        if let value = try fuse.integer("merge_buffer_size", minimum: 1) { configuration.fuse.mergeBufferSize = value }
        if let value = try fuse.integer("merge_worker_count", minimum: 1) {
            configuration.fuse.mergeWorkerCount = value
        }
        if let value = try fuse.integer("lazy_threshold", minimum: 0) {
            configuration.fuse.lazyThreshold = Int64(value)
        }
        ignoredKeys += try fuse.finish(ignoring: StargzKeys.fuse)
    }

    private mutating func readDirectoryCache(_ cache: TOMLSection) throws(TOMLError) {
        if let value = try cache.bool("direct") { configuration.directoryCache.direct = value }
        ignoredKeys += try cache.finish(ignoring: StargzKeys.directoryCache)
        // The kernel reads the backing file itself: there is no cache that bytes could go through.
        if configuration.fuse.passthrough, !configuration.directoryCache.direct {
            configuration.directoryCache.direct = true
            notices.append(
                "\(cache.path): directory_cache.direct = false has no effect with fuse.passthrough = true; it is taken as true"
            )
        }
    }
}
