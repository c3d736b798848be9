import Glibc
import LaminaSQLite
import LaminaSystem

/// The recorded connection to the kernel: what a process needs to know to go on with it.
public struct SessionRow: Sendable, Equatable {
    /// The minor device number of its mount.
    public var connection: UInt32
    /// The kernel's INIT request.
    public var initRequest: [UInt8]
    /// Whether passthrough was negotiated.
    public var hasPassthrough: Bool

    public init(connection: UInt32, initRequest: [UInt8], hasPassthrough: Bool) {
        self.connection = connection
        self.initRequest = initRequest
        self.hasPassthrough = hasPassthrough
    }
}

extension Store {
    /// Records the session of this boot.
    public func setSession(_ session: SessionRow) throws {
        let boot = try Self.bootID()
        try write { writer in
            try writer.connection.cached(
                """
                INSERT OR REPLACE INTO session (id, boot, connection, init, passthrough, started_at)
                VALUES (1, ?, ?, ?, ?, ?)
                """
            ).bind(1, text: boot).bind(2, Int64(session.connection)).bind(3, blob: session.initRequest)
                .bind(4, session.hasPassthrough ? 1 : 0).bind(5, Int64(time(nil))).run()
        }
    }

    /// Forgets the session: its mount has ended.
    public func removeSession() throws {
        try write { writer in try writer.connection.cached("DELETE FROM session").run() }
    }

    /// The recorded session; nil if there is none, or it belongs to another boot.
    public func session() throws -> SessionRow? {
        let boot = try Self.bootID()
        return try index.read { connection in
            try connection.cached("SELECT connection, init, passthrough FROM session WHERE boot = ?")
                .bind(1, text: boot).first { row in
                    SessionRow(
                        connection: UInt32(truncatingIfNeeded: row.integer(0)), initRequest: Array(row.blob(1)),
                        hasPassthrough: row.integer(2) != 0)
                }
        }
    }
}
