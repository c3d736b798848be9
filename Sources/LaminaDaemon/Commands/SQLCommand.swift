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
        let mode = output.json ? "-json" : output.isTerminal ? "-box" : "-list"
        return [program, "-readonly", "-header", mode, "-cmd", ".timeout 5000", root + "/index.db"] + queries
    }

    /// Replaces this process by the client; returns only if that fails.
    public func run(_ context: CommandContext) throws {
        // Says in words what the client would not know: that there is no store, or that it belongs to a newer lamina.
        _ = try Index(root: context.root)
        let words = Self.words(root: context.root, queries: queries, output: context.output)
        var arguments = words.map { strdup($0) } + [nil]
        defer { arguments.forEach { free($0) } }
        execvp(Self.program, &arguments)
        if errno == ENOENT {
            throw DaemonError(.notFound, "the program sqlite3 is not installed ('apt install sqlite3' on Debian)")
        }
        throw SystemError.last("start", Self.program)
    }
}
