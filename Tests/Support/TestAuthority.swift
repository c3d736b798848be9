import Glibc
import LaminaSystem

/// The tests' own certificate authority, made by openssl(1), with certificates for 127.0.0.1.
public struct TestAuthority: Sendable {
    public struct Certificate: Sendable {
        public var path: String
        public var key: String
    }

    /// Where the files are; the code that makes it removes it.
    public let directory: String
    /// The authority's own certificate.
    public var certificate: String { directory + "/ca.crt" }
    public let server: Certificate
    public let client: Certificate

    /// - Throws: `RegistryFixture.Unavailable` without openssl.
    public init() throws {
        directory = try temporaryDirectory("authority")
        server = Certificate(path: directory + "/server.crt", key: directory + "/server.key")
        client = Certificate(path: directory + "/client.crt", key: directory + "/client.key")
        let script = """
            cd "$1" && key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes' &&
            openssl req -x509 $key -keyout ca.key -out ca.crt -days 2 -subj '/CN=tests of lamina' &&
            for name in server client; do
              openssl req $key -keyout $name.key -out $name.csr -subj /CN=$name &&
              printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\\n' >$name.ext &&
              openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile $name.ext \
                -out $name.crt || exit 1
            done
            """
        guard try Self.run(["/bin/sh", "-c", script, "sh", directory]) == 0 else {
            throw RegistryFixture.Unavailable(description: "the TLS tests need openssl (apt install openssl)")
        }
    }

    /// Runs a program to its end, without output.
    private static func run(_ arguments: [String]) throws -> Int32 {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        var words = arguments.map { strdup($0) } + [nil]
        defer { words.forEach { free($0) } }
        var child = pid_t()
        let error = posix_spawn(&child, arguments[0], &actions, nil, &words, environ)
        guard error == 0 else { throw SystemError(code: error, operation: "start", subject: arguments[0]) }
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0, errno == EINTR {}
        return status
    }
}
