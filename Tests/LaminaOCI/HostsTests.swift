import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaOCI

@Suite("hosts.toml")
struct HostsTests {
    private func file(_ text: String) throws -> HostsFile {
        try HostsFile(parsing: Array(text.utf8), path: "/d/h/hosts.toml")
    }

    @Test("mirrors come in the order of the file, with what it says of each")
    func mirrors() throws {
        let file = try file(
            """
            server = "https://up.example:8443/prefix"
            capabilities = ["pull", "push"]
            [host."https://z.example"]
              capabilities = ["pull", "Resolve"]
              ca = "ca.crt"
              skip_verify = true
              dial_timeout = "3s"
              [host."https://z.example".header]
                x-a = "1"
                x-b = ["2", "3"]
            [host."http://a.example:80/api/v2/"]
              ca = ["/abs.crt", "rel.crt"]
              client = [["c.crt", "c.key"], ["d.pem", ""]]
            [host."m.example/root"]
              override_path = true
              client = "both.pem"
            """)
        #expect(file.mirrors.map(\.url) == ["https://z.example", "http://a.example", "https://m.example"])
        #expect(file.mirrors.map(\.path) == ["/v2", "/api/v2", "/root"])
        #expect(file.server.url == "https://up.example:8443" && file.server.path == "/prefix/v2")
        #expect(file.server.capabilities == [.pull])
        let (z, a, m) = (file.mirrors[0], file.mirrors[1], file.mirrors[2])
        #expect(z.tls.authorities == ["/d/h/ca.crt"] && z.tls.skipsVerification)
        #expect(z.headers.map(\.name) == ["x-a", "x-b", "x-b"])
        #expect(z.headers.map(\.value) == [Secret("1"), Secret("2"), Secret("3")])
        #expect(a.tls.authorities == ["/abs.crt", "/d/h/rel.crt"])
        #expect(
            a.tls.clients == [
                .init(certificate: "/d/h/c.crt", key: "/d/h/c.key"), .init(certificate: "/d/h/d.pem", key: nil),
            ])
        #expect(m.tls.clients == [.init(certificate: "/d/h/both.pem", key: nil)])
        #expect(a.capabilities == [.pull, .resolve])
    }

    @Test(
        "what is wrong is told with file and line",
        arguments: [
            "server = 1", "server = \"ftp://x\"", "server = \"https://u:p@x\"",
            "\n[host.\"https://x\"]\ncapabilities = [\"fly\"]",
            "[host.\"https://x\"]\nca = 1", "[host.\"https://x\"]\nclient = [[1]]", "host = 3", "[host.\"no host\"]",
            "[host.\"https://x\"]\nskipverify = true", "[host.\"https://x\".header]\n\"a b\" = \"c\"",
            "[host.\"https://x\".header]\na = \"c\\r\\nInjected: d\"", "[host", "servr = \"https://x\"",
        ])
    func wrong(text: String) {
        let error = #expect(throws: OCIError.self) { try file(text) }
        #expect(error?.code == .badConfiguration)
        #expect(error?.message.contains("/d/h/hosts.toml, line ") == true, "\(error?.message ?? "")")
    }

    @Test(
        "directories are looked through in order, for host_port_, host:port and _default; others than the registry get ns"
    )
    func directories() throws {
        let root = try temporaryDirectory("certs")
        defer { removeTree(root) }
        func put(_ name: String, _ text: String) throws {
            try createDirectories(String(name[..<(name.lastIndex(of: "/") ?? name.startIndex)]))
            let bytes = Array(text.utf8)
            try bytes.withUnsafeBytes { try File(name, O_WRONLY | O_CREAT).write($0, at: 0) }
        }
        let mirror = { (name: String) in "[host.\"https://\(name)\"]\n" }
        try put("\(root)/a/r.example_5000_/hosts.toml", mirror("one"))
        try put("\(root)/a/r.example:5000/hosts.toml", mirror("two"))
        try put("\(root)/a/docker.io/hosts.toml", "server = \"https://registry-1.docker.io\"\n" + mirror("hub"))
        try put("\(root)/b/_default/hosts.toml", mirror("default"))
        try put("\(root)/a/certs.example/x.crt", "")
        try put("\(root)/a/certs.example/y.cert", "")
        try put("\(root)/a/certs.example/y.key", "")
        try put("\(root)/a/127.0.0.1:5000/hosts.toml", "ca = \"x.crt\"")
        try put("\(root)/a/broken.example/hosts.toml", "server = [")
        let hosts = HostsConfiguration(directories: ["\(root)/none", "\(root)/a", "\(root)/b"])
        func urls(_ registry: String, plain: Bool = false) throws -> [String] {
            try hosts.hosts(for: registry, plainHTTP: plain).map { $0.url(of: "x") }
        }
        #expect(try urls("r.example:5000") == ["https://one/v2/x?ns=r.example%3A5000", "https://r.example:5000/v2/x"])
        #expect(try urls("docker.io") == ["https://hub/v2/x?ns=docker.io", "https://registry-1.docker.io/v2/x"])
        #expect(
            try urls("other.example", plain: true) == [
                "https://default/v2/x?ns=other.example", "http://other.example/v2/x",
            ])
        #expect(try urls("127.0.0.1:5000") == ["https://127.0.0.1:5000/v2/x"])
        #expect(
            try HostsConfiguration.none.hosts(for: "127.0.0.1:5000", plainHTTP: false).map(\.url) == [
                "http://127.0.0.1:5000"
            ])
        let certificates = try hosts.hosts(for: "certs.example", plainHTTP: false)[0].tls
        #expect(certificates.authorities == ["\(root)/a/certs.example/x.crt"])
        #expect(
            certificates.clients == [
                .init(certificate: "\(root)/a/certs.example/y.cert", key: "\(root)/a/certs.example/y.key")
            ])
        #expect(throws: OCIError.self) { try urls("broken.example") }
    }
}
