import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaContainerd
@testable import LaminaOCI

@Suite("A kubeconfig")
struct KubeconfigTests {
    private static func text(cluster: String, user: String, context: String = "user: me") -> String {
        """
        apiVersion: v1
        kind: Config
        current-context: here
        contexts:
        - name: elsewhere
          context: {cluster: other, user: nobody}
        - name: here
          context:
            cluster: mine
            \(context)
        clusters:
        - name: other
          cluster: {server: "https://192.0.2.1"}
        - name: mine
          cluster:
            \(cluster)
        users:
        - name: me
          user:
            \(user)
        """
    }

    private func access(_ cluster: String, _ user: String, path: String = "/k/config") throws -> ClusterAccess {
        try Kubeconfig.parse(Array(Self.text(cluster: cluster, user: user).utf8), path: path)
    }

    @Test("says where the cluster is, whom to trust, and who asks")
    func users() throws {
        let server = "server: https://10.0.0.1:6443/"
        let token = try access(server + "\n    certificate-authority: ca.crt", "token: abc")
        #expect(token.server == "https://10.0.0.1:6443" && token.origin == "/k/config")
        #expect(token.tls.authorities == ["/k/ca.crt"] && token.tls.clientText == nil)
        #expect(token.authorization == Secret("Bearer abc"))
        let basic = try access(server + "\n    insecure-skip-tls-verify: true", "{username: u, password: \"p:1\"}")
        #expect(basic.authorization == Secret("Basic dTpwOjE=") && basic.tls.skipsVerification)
        let inline = try access(
            server + "\n    certificate-authority-data: Q0E=",
            "{client-certificate-data: Q0VSVA==, client-key-data: S0VZ}")
        #expect(inline.tls.authorityText == "CA" && inline.tls.clientText == Secret("CERT\nKEY"))
        #expect(inline.authorization == nil)
        // JSON is YAML.
        let json = """
            {"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k"}}],
             "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:8001"}}]}
            """
        let proxy = try Kubeconfig.parse(Array(json.utf8), path: "k")
        #expect(proxy.server == "http://127.0.0.1:8001" && proxy.authorization == nil)
    }

    @Test("names files that are beside it, and a token that is read anew each time")
    func files() throws {
        let directory = try temporaryDirectory("kubeconfig")
        defer { removeTree(directory) }
        func write(_ text: String, _ name: String) throws {
            try replaceFile("\(directory)/\(name)", with: Array(text.utf8), mode: 0o600)
        }
        try write(
            Self.text(cluster: "server: https://c", user: "{tokenFile: token, client-certificate: c, client-key: k}"),
            "config")
        try write("C", "c")
        try write("K", "k")
        for token in ["one", "two"] {
            try write(token + "\n", "token")
            let access = try Kubeconfig.access(path: directory + "/config")
            #expect(access.authorization == Secret("Bearer " + token) && access.tls.clientText == Secret("C\nK"))
        }
        unlink(directory + "/token")
        let gone = #expect(throws: OCIError.self) { try Kubeconfig.access(path: directory + "/config") }
        #expect(gone?.code == .badConfiguration && gone?.description.contains(directory + "/token") == true)
        #expect(throws: OCIError.self) { try Kubeconfig.access(path: directory + "/none") }
    }

    @Test(
        "that is wrong is an error that names the file and what is missing, and nothing secret",
        arguments: [
            ("", "it is empty"), ("a: [", "it is no YAML: line"), ("[]", "no current-context"),
            ("current-context: x", "contexts has nothing of the name 'x'"),
            (text(cluster: "x: 1", user: "token: s3cret"), "the cluster has no server"),
            (text(cluster: "server: ftp://x", user: "token: s3cret"), "is no URL of an API"),
            (text(cluster: "server: http://192.0.2.1", user: "token: s3cret"), "without TLS"),
            (text(cluster: "server: https://x", user: "exec: {command: aws}"), "plugin (exec)"),
            (text(cluster: "server: https://x", user: "client-certificate-data: '*'"), "is no base64"),
            (text(cluster: "server: https://x", user: "client-key-data: S0VZ"), "no client-certificate"),
            (
                text(cluster: "server: https://x", user: "x: 1", context: "user: you"),
                "users has nothing of the name 'you'"
            ),
            (text(cluster: "{server: https://x, tls-server-name: y}", user: "x: 1"), "tls-server-name"),
        ])
    func wrong(text: String, message: String) {
        let error = #expect(throws: OCIError.self) { try Kubeconfig.parse(Array(text.utf8), path: "/k/config") }
        #expect(error?.code == .badConfiguration)
        #expect(error?.description.contains(message) == true, "\(String(describing: error))")
        #expect(error?.description.contains("/k/config") == true && error?.description.contains("s3cret") == false)
    }

    @Test("that was damaged by chance, or means harm, is read or refused, soon")
    func hostile() {
        var generator = SystemRandomNumberGenerator()
        let good = Array(Self.text(cluster: "server: https://10.0.0.1", user: "token: abc").utf8)
        for _ in 0..<3000 {
            var bytes = good
            for _ in 0..<Int.random(in: 1...6, using: &generator) {
                bytes[Int.random(in: 0..<bytes.count, using: &generator)] = .random(in: 0...255, using: &generator)
            }
            _ = try? Kubeconfig.parse(bytes, path: "k")
        }
        // Each line stands for nine of the one before.
        var laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        for level in 1..<40 {
            let aliases = Array(repeating: "*a\(level - 1)", count: 9).joined(separator: ",")
            laughs += "a\(level): &a\(level) [\(aliases)]\n"
        }
        let clock = ContinuousClock()
        let time = clock.measure {
            #expect(throws: OCIError.self) { try Kubeconfig.parse(Array(laughs.utf8), path: "k") }
            let deep = Array(repeating: UInt8(ascii: "["), count: 100_000)
            #expect(throws: OCIError.self) { try Kubeconfig.parse(deep, path: "k") }
        }
        #expect(time < .seconds(20))
    }
}
