import Foundation

/// docker-registry on loopback, on the files of the inputs themselves.
final class Registry {
    let port: UInt16
    let process: Child

    init(_ space: Workspace, _ images: [Image]) throws {
        try makeDirectory(space.registry)
        for image in images { try image.register(in: space.registry) }
        port = try Self.freePort()
        let configuration = """
            version: 0.1
            log: {level: error, accesslog: {disabled: true}}
            storage:
              filesystem: {rootdirectory: \(space.registry)}
              maintenance: {uploadpurging: {enabled: false}}
            http: {addr: 127.0.0.1:\(port), relativeurls: true}

            """
        let path = space.run + "/registry.yml"
        try configuration.write(toFile: path, atomically: false, encoding: .utf8)
        process = try Child(["docker-registry", "serve", path], output: space.run + "/registry.log")
        for _ in 0..<400 {
            if Self.answers(port) { return }
            usleep(25_000)
        }
        throw Failure("docker-registry does not answer; see \(space.run)/registry.log")
    }

    func reference(_ image: Image) -> String { "127.0.0.1:\(port)/\(image.name):1" }

    private static func address(_ port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return address
    }

    private static func withSocket<T>(
        _ port: UInt16, _ body: (Int32, UnsafePointer<sockaddr>, socklen_t) throws -> T
    ) throws -> T {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw Failure.system("socket") }
        defer { close(descriptor) }
        var address = address(port)
        return try withUnsafePointer(to: &address) {
            try $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                try body(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }

    private static func answers(_ port: UInt16) -> Bool {
        (try? withSocket(port) { connect($0, $1, $2) == 0 }) ?? false
    }

    /// A port that is free at this moment.
    private static func freePort() throws -> UInt16 {
        try withSocket(0) { descriptor, address, size in
            guard bind(descriptor, address, size) == 0 else { throw Failure.system("bind") }
            var bound = sockaddr_in()
            var length = size
            let error = withUnsafeMutablePointer(to: &bound) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
            }
            guard error == 0 else { throw Failure.system("getsockname") }
            return UInt16(bigEndian: bound.sin_port)
        }
    }
}
