import Glibc
import LaminaSystem

/// Tells the service manager how the server is, by datagrams to `NOTIFY_SOCKET` (sd_notify(3)). Without one it does nothing.
struct Notifier: Sendable {
    private let path: String?

    init(path: String?) { self.path = path.flatMap { $0.hasPrefix("/") || $0.hasPrefix("@") ? $0 : nil } }

    /// From the environment, which is then cleared so that no child speaks for this process.
    static func fromEnvironment() -> Notifier {
        let path = getenv("NOTIFY_SOCKET").map { String(cString: $0) }
        unsetenv("NOTIFY_SOCKET")
        return Notifier(path: path)
    }

    func ready(_ status: String) { send("READY=1\nSTATUS=\(status)\nMAINPID=\(getpid())") }
    func status(_ status: String) { send("STATUS=\(status)") }
    func stopping() { send("STOPPING=1\nSTATUS=ending") }

    /// Whether it was sent is not to be known, and nothing hangs on it.
    private func send(_ message: String) {
        guard let path, path.utf8.count <= ControlSocket.pathLimit else { return }
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let name = Array(path.utf8)
        withUnsafeMutableBytes(of: &address.sun_path) { room in
            for (index, byte) in name.enumerated() { room[index] = byte }
            // An abstract name (unix(7)) begins with a NUL, written as @.
            if name.first == UInt8(ascii: "@") { room[0] = 0 }
        }
        // Of an abstract name every byte counts, so the length must be exact.
        let length = socklen_t(MemoryLayout<sa_family_t>.size + name.count)
        let bytes = Array(message.utf8)
        withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                _ = sendto(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT), address, length)
            }
        }
    }
}
