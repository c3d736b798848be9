import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaOCI

@Suite("registries.conf")
struct ContainersRegistriesTests {
    private func put(_ text: String, _ path: String) throws {
        try replaceFile(path, with: Array(text.utf8), mode: 0o600)
    }

    /// What is asked for a repository, as URLs without the resource.
    private func hosts(
        _ files: [String], _ registry: String, _ repository: String
    ) throws -> [RegistryHost]? {
        let directory = try temporaryDirectory("registries")
        defer { removeTree(directory) }
        try createDirectories(directory + "/d")
        for (number, text) in files.enumerated() {
            let path = number == 0 ? directory + "/main" : directory + "/d/\(number).conf"
            try put(text, path)
        }
        return try ContainersRegistries(file: directory + "/main", directory: directory + "/d")
            .hosts(for: registry, repository)
    }

    private func urls(_ files: [String], _ registry: String, _ repository: String) throws -> [String]? {
        try hosts(files, registry, repository)?.map { "\($0.url)/\($0.repository ?? repository)" }
    }

    private static let main = """
        unqualified-search-registries = ["docker.io"]
        short-name-mode = "enforcing"
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.example/hub"
        [[registry.mirror]]
        location = "second.example:5000"
        insecure = true
        pull-from-mirror = "digest-only"
        [[registry]]
        prefix = "docker.io/library"
        location = "here.example/official"
        [[registry]]
        prefix = "*.wild.example"
        location = "all.example/wild"
        [[registry]]
        location = "bad.example"
        blocked = true
        """

    @Test("mirrors first, the rest of the name behind their place, the longest prefix counts")
    func mirrors() throws {
        #expect(
            try urls([Self.main], "docker.io", "me/app") == [
                "https://mirror.example/hub/me/app", "https://second.example:5000/me/app",
                "http://second.example:5000/me/app",
                "https://registry-1.docker.io/me/app",
            ])
        #expect(try urls([Self.main], "docker.io", "library/debian") == ["https://here.example/official/debian"])
        // Whole components only.
        #expect(try urls([Self.main], "docker.io", "library-of/mine")?.count == 4)
        #expect(try urls([Self.main], "docker.io.evil.example", "a") == nil)
        #expect(try urls([Self.main], "a.wild.example", "x/y") == ["https://all.example/wild/x/y"])
        #expect(try urls([Self.main], "wild.example", "x") == nil)
        #expect(try urls([Self.main], "other.example", "x") == nil)
    }

    @Test("what each server is asked for: tags, digests, or both; and how it is spoken to")
    func capabilities() throws {
        let found = try #require(try hosts([Self.main], "docker.io", "me/app"))
        #expect(found.map(\.capabilities) == [[.resolve, .pull], [.pull], [.pull], [.resolve, .pull]])
        #expect(found.map(\.tls.skipsVerification) == [false, true, true, false])
        #expect(found.allSatisfy { $0.namespace == nil })
        let local =
            "[[registry]]\nlocation = \"127.0.0.1:5000\"\ninsecure = true\nmirror-by-digest-only = true\n"
            + "[[registry.mirror]]\nlocation = \"localhost:1/m\"\n"
        let hosts = try #require(try hosts([local], "127.0.0.1:5000", "a"))
        #expect(hosts.map(\.url) == ["https://localhost:1", "http://127.0.0.1:5000", "https://127.0.0.1:5000"])
        #expect(hosts[0].capabilities == [.pull] && hosts[0].repository == "m/a")
    }

    @Test("a file of the directory replaces what an earlier one says of the same prefix")
    func directory() throws {
        let other = "[[registry]]\nprefix = \"docker.io/library\"\nlocation = \"elsewhere.example\"\n"
        #expect(try urls([Self.main, other], "docker.io", "library/debian") == ["https://elsewhere.example/debian"])
        #expect(try urls([Self.main, other], "docker.io", "me/app")?.count == 4)
    }

    @Test("what is blocked is not asked, and the error names file and prefix")
    func blocked() {
        #expect {
            _ = try urls([Self.main], "bad.example", "a")
        } throws: { "\($0)".contains("blocks 'bad.example'") && "\($0)".contains("/main") }
    }

    @Test("slashes at the end of a prefix or a place say nothing")
    func slashes() throws {
        let file = """
            [[registry]]
            prefix = "docker.io/"
            blocked = true
            location = "x.example"
            [[registry]]
            prefix = "r.example/team//"
            location = "m.example/proj/"
            [[registry.mirror]]
            location = "n.example/"
            """
        #expect {
            _ = try urls([file], "docker.io", "me/app")
        } throws: { "\($0)".contains("blocks 'docker.io'") }
        #expect(
            try urls([file], "r.example", "team/app") == ["https://n.example/app", "https://m.example/proj/app"])
        #expect(try urls([file], "r.example", "teams/app") == nil)
        // The same prefix, so that the later file counts.
        let other = "[[registry]]\nprefix = \"r.example/team\"\nlocation = \"o.example\"\n"
        #expect(try urls([file, other], "r.example", "team/app") == ["https://o.example/app"])
        #expect(throws: OCIError.self) { _ = try urls(["[[registry]]\nlocation = \"//\"\n"], "a", "b") }
    }

    @Test("a directory that cannot be listed, or has more files than are read, is an error: one may block a registry")
    func directoryUnreadable() throws {
        let directory = try temporaryDirectory("registries")
        defer { removeTree(directory) }
        func hosts(_ name: String) throws -> [RegistryHost]? {
            try ContainersRegistries(file: directory + "/none", directory: directory + "/" + name)
                .hosts(for: "r.example", "a")
        }
        #expect(try hosts("missing") == nil)
        // A link to itself: ELOOP stands for EMFILE and the like.
        #expect(symlink("loop", directory + "/loop") == 0)
        #expect { _ = try hosts("loop") } throws: { ($0 as? OCIError)?.code == .badConfiguration }
        try createDirectories(directory + "/many")
        for number in 0..<256 { try put("", directory + "/many/\(number).conf") }
        try put("x", directory + "/many/ignored")
        #expect(try hosts("many") == nil)
        try put("[[registry]]\nlocation = \"r.example\"\nblocked = true\n", directory + "/many/zzz.conf")
        #expect { _ = try hosts("many") } throws: { ($0 as? OCIError)?.code == .badConfiguration }
    }

    @Test(
        "what is wrong is told with file, and line where there is one; keys that are not lamina's are podman's to judge",
        arguments: [
            "[[registry]]\nprefix = \"a\"", "[[registry]]\nlocation = 1", "registry = 3", "[[registry",
            "[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\ninsecure = true",
            "[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\nlocation = \"b\"\npull-from-mirror = \"never\"",
        ])
    func wrong(_ text: String) throws {
        #expect {
            _ = try urls([text], "a", "b")
        } throws: {
            // What is missing is on no line.
            ($0 as? OCIError)?.code == .badConfiguration && "\($0)".contains("/main")
                && ("\($0)".contains("line") || "\($0)".contains("location must be there"))
        }
        #expect(
            try urls(["new-key = 1\n[[registry]]\nlocation = \"a.example\"\nfancy = true"], "a.example", "b")
                == ["https://a.example/b"])
    }

    @Test("a place that is none is an error, and no request")
    func noPlace() {
        for place in ["http://a", "a b", "user:secret@a", "..", "a/B"] {
            #expect(throws: OCIError.self) {
                _ = try urls(["[[registry]]\nprefix = \"x\"\nlocation = \"\(place)\""], "x", "y")
            }
        }
    }

    @Test("hosts.toml and lamina's own mirrors come before; without podman's files all is as it was")
    func precedence() throws {
        let directory = try temporaryDirectory("registries")
        defer { removeTree(directory) }
        try put(
            "[[registry]]\nlocation = \"r.example\"\n[[registry.mirror]]\nlocation = \"m.example\"", directory + "/main"
        )
        var hosts = HostsConfiguration(directories: [directory + "/certs"])
        func urls() throws -> [String] {
            try hosts.hosts(for: "r.example", repository: "a", plainHTTP: false).map(\.url)
        }
        #expect(try urls() == ["https://r.example"])
        hosts.containers = ContainersRegistries(file: directory + "/main", directory: "")
        #expect(try urls() == ["https://m.example", "https://r.example"])
        try createDirectories(directory + "/certs/r.example")
        try put("server = \"https://own.example\"", directory + "/certs/r.example/hosts.toml")
        #expect(try urls() == ["https://own.example"])
        hosts.containers = ContainersRegistries(file: directory + "/none", directory: directory + "/none")
        hosts.directories = []
        #expect(try urls() == ["https://r.example"])
    }

    @Test("a mirror of registries.conf gets its own credentials and its own name for the repository, and nobody else's")
    func mirrorCredentials() throws {
        let directory = try temporaryDirectory("registries")
        defer { removeTree(directory) }
        func auth(_ user: String) -> String { "{\"auth\":\"\(Base64.encode(Array("\(user):p".utf8)))\"}" }
        try put(
            "{\"auths\":{\"m.example/hub\":\(auth("mirror")),\"r.example\":\(auth("registry"))}}",
            directory + "/auth.json")
        var store = CredentialStore(defaultFile: nil)
        store.containersFiles = [directory + "/none", directory + "/auth.json"]
        func user(_ host: String, _ repository: String) throws -> String? {
            guard
                case .basic(let user, _)? = try store.find(host: host, repository: repository, shouldStop: { false })?
                    .credentials
            else { return nil }
            return user
        }
        #expect(try user("m.example", "hub/app") == "mirror")
        #expect(try user("m.example", "app") == nil)
        #expect(try user("r.example", "app") == "registry")
        #expect(try user("other.example", "app") == nil)
    }
}
