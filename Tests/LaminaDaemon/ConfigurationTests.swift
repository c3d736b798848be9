import Glibc
import LaminaOCI
import LaminaSystem
import Logging
import Testing

@testable import LaminaDaemon

@Suite("the configuration")
struct ConfigurationTests {
    private func parse(_ text: String) throws -> ConfigurationFile {
        try ConfigurationFile(parsing: Array(text.utf8), path: "/c.toml")
    }

    @Test("an empty file is the defaults")
    func empty() throws {
        let file = try parse("")
        #expect(file.configuration == Configuration())
        #expect(file.notices.isEmpty)
        #expect(file.configuration.fuse.mergeBufferSize == 419_430_400)
        #expect(file.configuration.fuse.mergeWorkerCount == 10)
        #expect(file.configuration.fuse.lazyThreshold == 8_388_608)
    }

    @Test("the sample says what the defaults are, and every key of it is known")
    func sample() throws {
        let path = URLPath.repository + "/config/config.toml"
        let bytes = try readFile(path)
        let file = try ConfigurationFile(parsing: bytes, path: path)
        #expect(file.configuration == Configuration())
        #expect(file.notices.isEmpty && file.ignoredKeys.isEmpty)
        // With every comment that holds a setting taken in as well, it is still right.
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n").map { line in
            line.hasPrefix("#") && line.contains(" = ") ? String(line.dropFirst()) : String(line)
        }
        #expect(throws: Never.self) { try parse(lines.joined(separator: "\n")) }
    }

    @Test("every key is read")
    func everyKey() throws {
        let file = try parse(
            """
            [fuse]
            passthrough = false
            merge_buffer_size = 1
            merge_worker_count = 2
            lazy_threshold = 0
            busy_wait = false
            [directory_cache]
            direct = false
            [store]
            root = "/srv/lamina"
            [log]
            level = "debug"
            [http]
            plain = ["registry.local:5000"]
            [metrics]
            address = "127.0.0.1:9323"
            """)
        let configuration = file.configuration
        #expect(!configuration.fuse.passthrough)
        #expect(configuration.fuse.mergeBufferSize == 1 && configuration.fuse.mergeWorkerCount == 2)
        #expect(configuration.fuse.lazyThreshold == 0 && !configuration.fuse.busyWait)
        #expect(!configuration.directoryCache.direct)
        #expect(configuration.store.root == "/srv/lamina")
        #expect(configuration.log.level == .debug)
        #expect(configuration.metrics.address == ListenAddress(host: "127.0.0.1", port: 9323))
        #expect(configuration.speaksPlainHTTP("registry.local:5000/a:1"))
        #expect(!configuration.speaksPlainHTTP("registry.local/a:1"))
        #expect(file.notices.isEmpty)
    }

    @Test("under passthrough, direct = false is taken as true, and that is said")
    func directIsForced() throws {
        let file = try parse("[directory_cache]\ndirect = false\n")
        #expect(file.configuration.directoryCache.direct)
        #expect(file.notices.count == 1 && file.notices[0].contains("directory_cache.direct"))
    }

    @Test("keys of stargz-snapshotter are passed over, and remembered")
    func foreignKeys() throws {
        let file = try parse(
            """
            http_cache_type = "memory"
            max_concurrency = 4
            [fuse]
            entry_timeout = 1
            [blob]
            chunk_size = 50000
            [[resolver.host."a".mirrors]]
            host = "m:1"
            insecure = true
            request_timeout_sec = 5
            """)
        #expect(
            file.ignoredKeys == [
                "fuse.entry_timeout", "resolver.host.a.mirrors.request_timeout_sec", "blob", "http_cache_type",
                "max_concurrency",
            ])
        // Mirrors have a meaning: they are asked first.
        #expect(file.configuration.resolver.hosts.mirrors["a"]?.map(\.url) == ["http://m:1"])
    }

    @Test("registries are reached as [resolver] says")
    func resolver() throws {
        let configuration = try parse(
            """
            [resolver]
            config_path = "/a:/b/c"
            creds_file = "/etc/creds.json"
            request_timeout_sec = 7
            [[resolver.host."docker.io".mirrors]]
            host = "one.example"
            [resolver.host."docker.io".mirrors.header]
            X-Key = ["a", "b"]
            [[resolver.host."docker.io".mirrors]]
            host = "localhost:5000"
            """
        ).configuration
        #expect(configuration.resolver.hosts.directories == ["/a", "/b/c"])
        #expect(configuration.resolver.credentialsFile == "/etc/creds.json")
        #expect(configuration.resolver.requestTimeoutSeconds == 7)
        let mirrors = configuration.resolver.hosts.mirrors["docker.io"] ?? []
        #expect(mirrors.map(\.url) == ["https://one.example", "http://localhost:5000"])
        #expect(mirrors.first?.headers.map(\.name) == ["X-Key", "X-Key"])
        for text in [
            "config_path = \"x\"", "creds_file = \"x\"", "request_timeout_sec = -1", "host = 1", "config_pth = \"/x\"",
            "[[resolver.host.\"a\".mirrors]]\nhost = \"no host\"", "[[resolver.host.\"a\".mirrors]]\ninsecure = true",
        ] {
            let error = #expect(throws: DaemonError.self, "\(text)") { try parse("[resolver]\n" + text) }
            #expect(error?.message.contains("resolver") == true, "\(text): \(error?.message ?? "")")
        }
    }

    @Test(
        "a wrong value or key is an error that names file and key",
        arguments: [
            ("[fuse]\nmerge_buffer_size = 0", "fuse.merge_buffer_size must be 1 or more, is 0"),
            ("[fuse]\nmerge_buffer_size = -5", "fuse.merge_buffer_size must be 1 or more, is -5"),
            ("[fuse]\nmerge_worker_count = 0", "fuse.merge_worker_count must be 1 or more, is 0"),
            ("[fuse]\nmerge_worker_count = \"4\"", "fuse.merge_worker_count must be an integer, is a string"),
            (
                "[metrics]\naddress = \"9323\"",
                "metrics.address must be HOST:PORT or empty, as 127.0.0.1:9323, is '9323'"
            ),
            ("[fuse]\nlazy_threshold = -1", "fuse.lazy_threshold must be 0 or more, is -1"),
            ("[fuse]\nlazy_threshold = 1.5", "fuse.lazy_threshold must be an integer, is a floating-point number"),
            ("[fuse]\npassthrough = 1", "fuse.passthrough must be true or false, is an integer"),
            ("[fuse]\npassthrou = true", "fuse.passthrou is no key that lamina knows; did you mean fuse.passthrough?"),
            ("fuse = 1", "fuse must be a table, is an integer"),
            ("[fuze]\n", "fuze is no key that lamina knows; did you mean fuse?"),
            ("[store]\nroot = \"here\"", "store.root must be an absolute path, is 'here'"),
            ("[log]\nlevel = \"loud\"", "log.level must be one of trace, debug, info, warn, error, is 'loud'"),
            ("[http]\nplain = [1]", "http.plain must be an array of strings"),
            ("[fuse]\nmerge_buffer_size = 99999999999999999999", "line 2"),
            ("[fuse\n", "line 1: ']' is expected"), ("\n[=a]\n", "line 2: a key is expected, found '='"),
            ("a = \"\u{0}\"", "line 1: a string holds a control character"),
        ])
    func wrong(text: String, message: String) throws {
        let error = #expect(throws: DaemonError.self) { try parse(text) }
        #expect(error?.code == .configuration)
        #expect(error?.message.contains("/c.toml") == true)
        #expect(error?.message.contains(message) == true, "\(error?.message ?? "")")
        #expect(error.map(ExitStatus.code) == 78)
    }

    @Test("a file that is missing, too large or no text is an error")
    func unreadable() throws {
        #expect(throws: DaemonError.self) { try ConfigurationFile.load("/nonexistent/lamina.toml") }
        #expect(throws: DaemonError.self) { try ConfigurationFile.load("/dev/zero") }
        #expect(throws: DaemonError.self) { try ConfigurationFile(parsing: [0xff, 0xfe], path: "/c.toml") }
        let long = Array(String(repeating: "#\n", count: 600_000).utf8)
        #expect(throws: DaemonError.self) { try ConfigurationFile(parsing: long, path: "/c.toml") }
    }

    @Test("the root is the option's, else the environment's, else the file's, else the default")
    func root() {
        var configuration = Configuration()
        #expect(configuration.root(option: nil, environment: nil) == "/var/lib/lamina")
        configuration.store.root = "/file"
        #expect(configuration.root(option: nil, environment: "") == "/file")
        #expect(configuration.root(option: nil, environment: "/environment/") == "/environment")
        #expect(configuration.root(option: "/./option//x", environment: "/environment") == "/option/x")
        #expect(configuration.root(option: "here", environment: nil).hasSuffix("/here"))
    }

    @Test("whatever a file holds, reading it ends with a configuration or an error of its own")
    func mutations() {
        let valid = Array(
            "http_cache_type = 'x'\n[fuse]\npassthrough = true\nmerge_buffer_size = 12\n[log]\nlevel = \"info\"\n[http]\nplain = ['a']\n"
                .utf8)
        var random = SeededGenerator(seed: 7)
        for _ in 0..<8000 {
            var bytes = valid
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.remove(at: place)
                default: bytes.insert(UInt8.random(in: 0...127, using: &random), at: place)
                }
            }
            do {
                let configuration = try ConfigurationFile(parsing: bytes, path: "/c.toml").configuration
                #expect(configuration.fuse.mergeBufferSize > 0 && configuration.fuse.mergeWorkerCount > 0)
            } catch {
                #expect(error.code == .configuration)
            }
        }
    }
}
