import Glibc
import LaminaSystem

/// Where a server listens: the control server of a store at `<root>/control.sock`, the server for containerd where its operator
/// says.
///
/// The socket is made under another name and renamed when it listens. So a client never finds a socket that does not answer
/// yet, and the rename replaces one that a dead server left. Only the holder of the store's lock may do that.
public struct ControlSocket: Sendable {
    public let path: String
    private let directory: String
    private let name: String

    public init(root: String) { self.init(path: root + "/control.sock") }

    /// - Parameter path: absolute.
    init(path: String) {
        self.path = path
        let slash = path.lastIndex(of: "/") ?? path.startIndex
        directory = slash == path.startIndex ? "/" : String(path[..<slash])
        name = String(path[slash...].drop { $0 == "/" })
    }

    /// The longest path that `sockaddr_un` holds, without its NUL (unix(7)).
    static let pathLimit = 107

    /// Calls `body` with a path to `name` in the directory that fits in a socket address.
    ///
    /// A path that is too long is reached through the descriptor of its directory: `/proc/self/fd/<n>/<name>` leads to the same
    /// place (proc(5)), both for bind and for connect.
    private func withShortPath<Result>(to name: String, _ body: (String) throws -> Result) throws -> Result {
        let path = directory + "/" + name
        guard path.utf8.count > Self.pathLimit else { return try body(path) }
        let opened = try File.place(directory)
        return try withExtendedLifetime(opened) { try body("/proc/self/fd/\(opened.descriptor)/\(name)") }
    }

    /// A descriptor that is connected to the server; nil if none listens.
    ///
    /// - Throws: `SystemError`, for example for a socket that this user may not open.
    func connect() throws -> Int32? {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw SystemError.last("make a socket for", path) }
        do {
            let result = try withShortPath(to: name) { short in
                withUnixAddress(short) { Glibc.connect(descriptor, $0, $1) }
            }
            if result == 0 { return descriptor }
            let error = SystemError.last("connect to", path)
            close(descriptor)
            // ENOENT: no server. ECONNREFUSED: a socket that a dead server left. EAGAIN is impossible, because the socket
            // blocks.
            guard error.code == ENOENT || error.code == ECONNREFUSED || error.code == ENOTDIR else { throw error }
            return nil
        } catch let error as SystemError where error.operation == "open" {
            close(descriptor)
            if error.code == ENOENT || error.code == ENOTDIR { return nil }
            throw error
        }
    }

    /// The listening socket, with its name in place: the one that an earlier process listened at, so that clients who
    /// came meanwhile are answered, or a new one.
    ///
    /// - Parameter group: who may connect besides its owner.
    func listen(_ inherited: File?, for group: gid_t? = nil) throws -> File {
        if let inherited, File.isSocket(at: path) { return inherited }
        let (short, directory) = try provisionalPath()
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw SystemError.last("make a socket for", path) }
        let file = File(adopting: descriptor, path: path)
        unlink(short)
        let bound = withUnixAddress(short) { bind(descriptor, $0, $1) }
        guard bound == 0, Glibc.listen(descriptor, Self.backlog) == 0 else { throw SystemError.last("listen at", path) }
        withExtendedLifetime(directory) {}
        try publish(for: group)
        return file
    }

    /// How many clients may wait while a server starts.
    private static let backlog: Int32 = 64

    /// The name that the server binds to before it is ready; in the same directory.
    private var provisionalName: String { ".\(getpid())-\(name)" }

    /// The path to bind to. The descriptor, if there is one, must live until the socket is bound.
    func provisionalPath() throws -> (path: String, directory: File?) {
        let path = directory + "/" + provisionalName
        if path.utf8.count <= Self.pathLimit { return (path, nil) }
        let opened = try File.place(directory)
        return ("/proc/self/fd/\(opened.descriptor)/\(provisionalName)", opened)
    }

    /// Lets clients find the socket that listens at `provisionalPath`.
    func publish(for group: gid_t? = nil) throws {
        let provisional = directory + "/" + provisionalName
        if let group, lchown(provisional, geteuid(), group) != 0 {
            throw SystemError.last("give to group \(group)", provisional)
        }
        // Connecting takes the right to write.
        guard chmod(provisional, group == nil ? 0o600 : 0o660) == 0 else {
            throw SystemError.last("restrict", provisional)
        }
        guard rename(provisional, path) == 0 else { throw SystemError.last("rename \(provisional) to", path) }
    }

    /// Removes the name, so that new clients find no server.
    func withdraw() {
        unlink(path)
        unlink(directory + "/" + provisionalName)
    }
}
