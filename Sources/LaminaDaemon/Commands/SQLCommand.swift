import Glibc
import LaminaStore
import LaminaSystem

/// `lamina sql`: SQLite's own client on the index, read-only, with headers on.
public struct SQLCommand: Sendable {
    /// The query; without one there is a prompt.
    public var queries: [String]

    public init(queries: [String]) { self.queries = queries }

    /// SQLite's client, by its name in `PATH`.
    static let program = "sqlite3"

    /// The command line. Rows are columns for people, and lines for programs.
    static func words(root: String, queries: [String], output: Output) -> [String] {
        [program, "-readonly", "-header", mode(output), "-cmd", ".timeout 5000", root + "/index.db"] + queries
    }

    /// The same of views that the server gave, in a database of the client's own.
    ///
    /// - Parameter script: makes them.
    static func words(script: String, queries: [String], output: Output) -> [String] {
        [program, "-header", mode(output), "-cmd", ".read \(script)", ":memory:"] + queries
    }

    private static func mode(_ output: Output) -> String {
        output.json ? "-json" : output.isTerminal ? "-box" : "-list"
    }

    /// The words of queries: what views they may be about.
    static func names(in queries: [String]) -> Set<String>? {
        if queries.isEmpty { return nil }
        return Set(queries.flatMap { $0.lowercased().matches(of: #/[a-z_]+/#).map { String($0.output) } })
    }

    /// Replaces this process by the client; returns only if that fails.
    public func run(_ context: CommandContext) throws {
        let words: [String]
        // Says in words what the client would not know: that there is no store, or one of a newer lamina.
        switch try StoreView.open(context) {
        case .index: words = Self.words(root: context.root, queries: queries, output: context.output)
        case .server(let client):
            let script = try client.viewScript(ScriptRequest(names: Self.names(in: queries)))
            words = Self.words(script: try Self.handOver(script), queries: queries, output: context.output)
        }
        var arguments = words.map { strdup($0) } + [nil]
        defer { arguments.forEach { free($0) } }
        execvp(Self.program, &arguments)
        if errno == ENOENT {
            throw DaemonError(.notFound, "the program sqlite3 is not installed ('apt install sqlite3' on Debian)")
        }
        throw SystemError.last("start", Self.program)
    }

    /// A path by which the program that this process becomes finds bytes.
    private static func handOver(_ bytes: [UInt8]) throws(SystemError) -> String {
        let file = try SharedMemory.inheritedFile(named: "lamina-views", of: bytes)
        return "/proc/self/fd/\(file)"
    }
}
