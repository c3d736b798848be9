import Glibc
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Logging
import Testing

@testable import LaminaDaemon

@Suite("the configuration")
struct ConfigurationTests {
    private func parse(_ text: String) throws -> LoadedConfiguration {
        try LoadedConfiguration(parsing: Array(text.utf8), path: "/c.toml")
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

    @Test("the sample has every key, at its default")
    func sample() throws {
        let path = URLPath.repository + "/config/config.toml"
        let file = try LoadedConfiguration(parsing: readFile(path), path: path)
        #expect(file.notices.isEmpty && file.unused.isEmpty)
        let standard = Configuration()
        for key in ConfigurationKeys.own {
            let setting = try #require(key.setting)
            #expect(setting.get(file.configuration) == setting.get(standard), "\(key.name)")
            guard case .file = file.origin(of: key.name) else {
                Issue.record("the sample lacks \(key.name)")
                continue
            }
        }
    }

    @Test("the documentation has every key with its default")
    func documentation() throws {
        let text = try String(decoding: readFile(URLPath.repository + "/docs/configuration.md"), as: UTF8.self)
        for key in ConfigurationKeys.own {
            let dot = try #require(key.name.lastIndex(of: "."))
            let name = "[\(key.name[..<dot])] \(key.name[key.name.index(after: dot)...])"
            let value = try #require(key.setting).get(Configuration()).text
            #expect(text.contains("| `\(name)` | `\(value)` |"), "\(name)")
        }
        for key in StargzKeys.all {
            let leaf = String(key.name.split(separator: ".").last ?? "")
            let table = String(key.name.split(separator: ".").first ?? "")
            #expect(
                text.contains("`\(leaf)`") || text.contains("`[\(table)]`") || text.contains("] \(leaf)`"),
                "\(key.name)")
        }
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
            attr_timeout = 3
            entry_timeout = 4
            busy_wait = false
            [directory_cache]
            direct = false
            [store]
            root = "/srv/lamina"
            max_bytes = 123456789
            [snapshotter]
            background_merge = false
            prefetch = false
            address = "/run/lamina/containerd.sock"
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
        #expect(configuration.store.root == "/srv/lamina" && configuration.root == "/srv/lamina")
        #expect(configuration.store.maxBytes == 123_456_789)
        #expect(configuration.fuse.attributeTimeout == 3 && configuration.fuse.entryTimeout == 4)
        #expect(!configuration.snapshotter.mergesInBackground && !configuration.snapshotter.prefetches)
        #expect(configuration.snapshotter.address == "/run/lamina/containerd.sock")
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

    @Test("keys of stargz-snapshotter without a meaning here are taken, and told once with the reason")
    func foreignKeys() throws {
        let file = try parse(
            """
            http_cache_type = "memory"
            max_concurrency = 4
            [blob]
            chunk_size = 50000
            [[resolver.host."a".mirrors]]
            host = "m:1"
            insecure = true
            request_timeout_sec = 5
            """)
        #expect(
            file.unused.map(\.key).sorted() == [
                "blob.chunk_size", "http_cache_type", "max_concurrency", "resolver.host.a.mirrors.request_timeout_sec",
            ])
        #expect(
            file.unused.map(\.description).contains(
                "/c.toml:4: blob.chunk_size has no effect: the layer's table of contents says what its chunks are"))
        // Mirrors have a meaning: they are asked first.
        #expect(file.configuration.resolver.hosts.mirrors["a"]?.map(\.url) == ["http://m:1"])
    }

    /// Everything in stargz-snapshotter's structs, with a value of the right type.
    private static let everyStargzKey = """
        http_cache_type = "memory"
        filesystem_cache_type = ""
        resolve_result_entry_ttl_sec = 120
        resolve_result_entry = 0
        prefetch_size = 104857600
        prefetch_timeout_sec = 10
        prefetch_async_size = 0
        noprefetch = false
        no_background_fetch = false
        debug = false
        allow_no_verification = false
        disable_verification = true
        max_concurrency = 2
        no_prometheus = true
        log_file_access = true
        metrics_address = "127.0.0.1:8234"
        debug_address = "/run/debug.sock"
        ipfs = false
        metadata_store = "db"
        [blob]
        valid_interval = 60
        check_always = false
        chunk_size = 50000
        fetching_timeout_sec = 300
        force_single_range_mode = false
        prefetch_chunk_size = 0
        max_retries = 5
        min_wait_msec = 30
        max_wait_msec = 300000
        [directory_cache]
        max_lru_cache_entry = 10
        max_cache_fds = 10
        sync_add = false
        direct = true
        fadv_dontneed = true
        [fuse]
        attr_timeout = 1
        entry_timeout = 2
        passthrough = true
        merge_buffer_size = 419430400
        merge_worker_count = 10
        [resolver]
        request_timeout_sec = -1
        [resolver.host."docker.io"]
        [[resolver.host."docker.io".mirrors]]
        host = "mirror.example"
        insecure = false
        request_timeout_sec = 30
        [cri_keychain]
        enable_keychain = true
        image_service_path = "/run/containerd/containerd.sock"
        listen_path = "/run/cri.sock"
        [kubeconfig_keychain]
        enable_keychain = false
        kubeconfig_path = "/etc/kubeconfig"
        [snapshotter]
        allow_invalid_mounts_on_restart = true
        [fuse_manager]
        enable = true
        address = "/run/manager.sock"
        path = "/usr/bin/manager"
        metrics_address = ""
        """

    @Test("every key that stargz-snapshotter knows is honoured, or has a reason why it is not")
    func everyStargzKey() throws {
        let file = try parse(Self.everyStargzKey)
        let configuration = file.configuration
        #expect(configuration.fuse.attributeTimeout == 1 && configuration.fuse.entryTimeout == 2)
        #expect(configuration.blob.maxRetries == 5 && configuration.blob.fetchingTimeoutSeconds == 300)
        #expect(configuration.blob.minWaitMilliseconds == 30 && configuration.blob.maxWaitMilliseconds == 300_000)
        let settings = configuration.registries(log: Logger(label: "test")).settings
        #expect(settings.tryLimit == 6 && settings.backoff == .milliseconds(30))
        #expect(settings.progressLimit == .seconds(300) && settings.backoffLimit == .seconds(300))
        // There a negative limit means none; here there is always a limit.
        #expect(configuration.resolver.requestTimeoutSeconds == 30)
        #expect(configuration.criKeychain.isEnabled)
        #expect(configuration.criKeychain.imageServicePath == "/run/containerd/containerd.sock")
        #expect(configuration.kubeconfigKeychain.path == "/etc/kubeconfig")
        #expect(file.unused.count == 32, "\(file.unused.count)")
        #expect(Set(file.unused.map(\.description)).count == file.unused.count)
        #expect(file.unused.allSatisfy { $0.reason.count > 20 })
    }

    @Test("what stargz-snapshotter says in other words counts, unless it is said outright too")
    func translated() throws {
        let file = try parse("debug = true\nno_background_fetch = true\nnoprefetch = true\n")
        #expect(file.configuration.log.level == .debug)
        #expect(!file.configuration.snapshotter.mergesInBackground && !file.configuration.snapshotter.prefetches)
        #expect(file.origin(of: "log.level").description == "/c.toml:1 (debug)")
        let both = try parse(
            "debug = true\nno_background_fetch = true\n[log]\nlevel = \"error\"\n[snapshotter]\nbackground_merge = true\n"
        )
        #expect(both.configuration.log.level == .error && both.configuration.snapshotter.mergesInBackground)
        #expect(try parse("debug = false\n").configuration.log.level == .info)
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
            "config_path = \"x\"", "creds_file = \"x\"", "request_timeout_sec = \"1\"", "host = 1",
            "config_pth = \"/x\"",
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
            (
                "\n[fuse]\nmerge_wrkr_cnt = 4",
                "/c.toml, line 3: fuse.merge_wrkr_cnt is no key that lamina knows; did you mean fuse.merge_worker_count?"
            ),
            (
                "merge_worker_count = 4",
                "line 1: merge_worker_count is no key that lamina knows; did you mean fuse.merge_worker_count?"
            ),
            ("[fuse]\nlevel = 4", "line 2: fuse.level is no key that lamina knows; did you mean log.level?"),
            ("xyzzy = 4", "line 1: xyzzy is no key that lamina knows; the nearest that it knows is"),
            ("\n\nprefetch_size = \"a\"", "/c.toml, line 3: prefetch_size must be an integer, is a string"),
            ("[blob]\ncheck_always = 1", "line 2: blob.check_always must be true or false, is an integer"),
            ("[fuse]\nattr_timeout = -1", "line 2: fuse.attr_timeout must be 0 or more, is -1"),
            ("[store]\nmax_bytes = -1", "line 2: store.max_bytes must be 0 or more, is -1"),
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

    @Test("all mistakes are told at once")
    func allMistakes() {
        let error = #expect(throws: DaemonError.self) {
            try parse("[fuse]\nmerge_buffer_size = 0\nmerge_worker_count = -1\n[log]\nlevle = 'info'\n")
        }
        let lines = error?.message.split(separator: "\n").map(String.init) ?? []
        #expect(lines.count == 3)
        #expect(zip(lines, [2, 3, 5]).allSatisfy { $0.contains("line \($1): ") }, "\(lines)")
        // A file full of mistakes does not take for ever.
        let many = (0..<50_000).map { "k\($0) = 1\n" }.joined()
        #expect(throws: DaemonError.self) { try parse(many) }
    }

    @Test("a file that is missing, too large or no text is an error")
    func unreadable() throws {
        for path in ["/nonexistent/lamina.toml", "/dev/zero"] {
            var places = LoadedConfiguration.Places()
            places.directory = "/nonexistent"
            places.file = path
            let error = #expect(throws: DaemonError.self) { try LoadedConfiguration.load(places) }
            #expect(error?.message.contains(path) == true)
        }
        #expect(throws: DaemonError.self) { try LoadedConfiguration(parsing: [0xff, 0xfe], path: "/c.toml") }
        let long = Array(String(repeating: "#\n", count: 600_000).utf8)
        #expect(throws: DaemonError.self) { try LoadedConfiguration(parsing: long, path: "/c.toml") }
    }

    @Test("config.toml, conf.d, --config, environment, options: the later goes before the sooner, key by key")
    func order() throws {
        let directory = Scratch()
        func write(_ name: String, _ text: String) throws {
            try createDirectories(directory.path + "/conf.d")
            let file = try LaminaSystem.File("\(directory.path)/\(name)", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
            try Array(text.utf8).withUnsafeBytes { try file.write($0, at: 0) }
        }
        var places = LoadedConfiguration.Places()
        places.directory = directory.path
        func count() throws -> (Int, String) {
            let loaded = try LoadedConfiguration.load(places)
            return (
                loaded.configuration.fuse.mergeWorkerCount, loaded.origin(of: "fuse.merge_worker_count").description
            )
        }
        #expect(try count() == (10, "default"))
        try write("config.toml", "[fuse]\nmerge_worker_count = 1\nmerge_buffer_size = 77\n")
        #expect(try count() == (1, "\(directory.path)/config.toml:2"))
        try write("conf.d/20-b.toml", "[fuse]\nmerge_worker_count = 3\n")
        try write("conf.d/10-a.toml", "[fuse]\n\nmerge_worker_count = 2\n[store]\nroot = '/a'\n")
        try write("conf.d/90-no.tml", "nonsense")
        #expect(try count() == (3, "\(directory.path)/conf.d/20-b.toml:2"))
        try write("named.toml", "fuse.merge_worker_count = 4")
        places.file = directory.path + "/named.toml"
        #expect(try count() == (4, "\(directory.path)/named.toml:1"))
        places.environment = [
            "LAMINA_FUSE_MERGE_WORKER_COUNT": "5", "LAMINA_STORE_ROOT": "", "LAMINA_OTHER_THING": "x",
        ]
        #expect(try count() == (5, "environment LAMINA_FUSE_MERGE_WORKER_COUNT"))
        places.settings = ["fuse.merge_worker_count=6"]
        #expect(try count() == (6, "option --set"))
        let loaded = try LoadedConfiguration.load(places)
        // What was not set again stays.
        #expect(loaded.configuration.fuse.mergeBufferSize == 77 && loaded.configuration.root == "/a")
        #expect(
            loaded.files.map { $0.split(separator: "/").last } == [
                "config.toml", "10-a.toml", "20-b.toml", "named.toml",
            ])
        #expect(loaded.notices.isEmpty)
        // Naming a file that is read anyway does not put it before conf.d.
        places.file = directory.path + "/config.toml"
        places.environment = [:]
        places.settings = []
        #expect(try count().0 == 3)
    }

    @Test("environment and options are read by the types of their keys, and a wrong one is named")
    func texts() throws {
        var places = LoadedConfiguration.Places()
        places.directory = "/nonexistent"
        places.environment = [
            "LAMINA_FUSE_PASSTHROUGH": "false", "LAMINA_HTTP_PLAIN": "a:1,b", "LAMINA_LOG_LEVEL": "warn",
            "LAMINA_ROOT": "relative", "LAMINA_FUSE_PASTHROUGH": "true",
        ]
        let loaded = try LoadedConfiguration.load(places)
        #expect(!loaded.configuration.fuse.passthrough && loaded.configuration.log.level == .warning)
        #expect(loaded.configuration.http.plain == ["a:1", "b"])
        #expect(loaded.configuration.root.hasPrefix("/") && loaded.configuration.root.hasSuffix("/relative"))
        #expect(
            loaded.notices == [
                "LAMINA_FUSE_PASTHROUGH in the environment means nothing to lamina; did you mean LAMINA_FUSE_PASSTHROUGH?"
            ])
        places.environment = ["LAMINA_FUSE_MERGE_BUFFER_SIZE": "much"]
        places.settings = ["fuse.lazy_threshold", "fuse.lazy=1", "log.level=loud", "prefetch_size=1"]
        let error = #expect(throws: DaemonError.self) { try LoadedConfiguration.load(places) }
        #expect(
            error?.message.split(separator: "\n") == [
                "environment LAMINA_FUSE_MERGE_BUFFER_SIZE: fuse.merge_buffer_size must be an integer, is 'much'",
                "--set takes KEY=VALUE, not 'fuse.lazy_threshold'",
                "--set: fuse.lazy is no key that lamina can set; did you mean fuse.lazy_threshold?",
                "option --set: log.level must be one of trace, debug, info, warn, error, is 'loud'",
                "--set: prefetch_size has no effect: what an image marks to be fetched first is fetched first, whatever its size",
            ])
    }

    @Test("the root is the option's, else the environment's, else the file's, else the default")
    func root() throws {
        var places = LoadedConfiguration.Places()
        places.directory = "/nonexistent"
        #expect(try LoadedConfiguration.load(places).configuration.root == "/var/lib/lamina")
        places.environment = ["LAMINA_ROOT": "/environment/"]
        #expect(try LoadedConfiguration.load(places).configuration.root == "/environment")
        places.root = "/./option//x"
        let loaded = try LoadedConfiguration.load(places)
        #expect(
            loaded.configuration.root == "/option/x" && loaded.origin(of: "store.root").description == "option --root")
    }

    @Test("what `config show` prints is a configuration that says the same, without the secrets of mirrors")
    func shown() throws {
        let file = try parse(
            """
            [fuse]
            merge_buffer_size = 9
            [store]
            root = "/a \\"b\\" \\u0007"
            [http]
            plain = ["x:1", "y"]
            [[resolver.host."a:1".mirrors]]
            host = "m.example"
            insecure = true
            [resolver.host."a:1".mirrors.header]
            Authorization = "Basic c2VjcmV0"
            """)
        let text = ConfigurationText(loaded: file).text
        #expect(!text.contains("c2VjcmV0") && text.contains("Authorization"))
        var again = try parse(text).configuration
        #expect(again.resolver.hosts.mirrors["a:1"]?.map(\.url) == ["http://m.example"])
        again.resolver.hosts.mirrors = file.configuration.resolver.hosts.mirrors
        #expect(again == file.configuration)
        let origins = ConfigurationText(loaded: file, showsOrigins: true).text
        #expect(origins.contains("merge_buffer_size = 9  # /c.toml:2\n"))
        #expect(origins.contains("merge_worker_count = 10  # default\n"))
    }

    @Test("whatever a file holds, reading it ends with a configuration or an error of its own")
    func mutations() {
        let valid = Array(
            "http_cache_type = 'x'\n[fuse]\npassthrough = true\nmerge_buffer_size = 12\n[log]\nlevel = \"info\"\n[http]\nplain = ['a']\n"
                .utf8)
        var random = SeededGenerator(seed: 7)
        for _ in 0..<3000 {
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
                let configuration = try LoadedConfiguration(parsing: bytes, path: "/c.toml").configuration
                #expect(configuration.fuse.mergeBufferSize > 0 && configuration.fuse.mergeWorkerCount > 0)
            } catch {
                #expect(error.code == .configuration)
            }
        }
    }
}
