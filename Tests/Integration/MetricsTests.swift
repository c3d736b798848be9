import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// Scraped and read by Prometheus' own parser in Python.
    @Suite("metrics and health", Requirements.passthrough, Requirements.pythonModule("prometheus_client"))
    struct Metrics {
        @Test(
            "what happened is counted, in the format, by the conventions and under the names that the documentation gives"
        )
        func scrape() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let settings = sandbox.directory + "/config.toml"
                try write("[metrics]\naddress = \"127.0.0.1:0\"\n".utf8, to: settings)
                let supervised = try sandbox.supervise("--config", settings)
                var address = try Self.address(supervised)
                let reference = image.reference(try sandbox.proxy())
                let mount = try sandbox.mount(reference)
                try run(["cmp", "\(mount)/middle", "\(image.tree)/middle"], seconds: 30).orThrow()
                #expect(sandbox.attemptQuietly("pull", "\(try sandbox.proxy().host)/none:latest") != 0)
                let first = try Self.samples(address)
                #expect(first["lamina_pulls_total{result=success}"] == 1)
                #expect(first["lamina_pulls_total{result=failure}"] == 1)
                #expect(first["lamina_fetch_errors_total{cause=not_found}"] == 1)
                #expect(first["lamina_fetch_errors_total{cause=wrong_bytes}"] == 0)
                #expect(first["lamina_opens_total{mode=passthrough}"] == 1)
                #expect(first["lamina_merge_duration_seconds_count"].map { $0 >= 1 } == true)
                #expect(first["lamina_merged_bytes_total"].map { $0 >= 3_145_728 } == true)
                #expect(first["lamina_fetched_bytes_total"].map { $0 > 1_000_000 } == true)
                #expect(first["lamina_images"] == 1 && first["lamina_mounts"] == 1 && first["lamina_took_over"] == 0)
                #expect(first["process_open_fds"].map { $0 > 5 } == true)
                // The same at the control socket.
                let local = try run([
                    "curl", "-sf", "--unix-socket", sandbox.root + "/control.sock", "http://lamina/metrics",
                ]).orThrow()
                #expect(local.output.contains("lamina_images 1\n"))
                // After a kill the next server reports how it took over the mounts.
                try supervised.killServer()
                #expect(try eventually(seconds: 20) { try supervised.isReady() })
                address = try Self.address(supervised, count: 2)
                let second = try Self.samples(address)
                #expect(second["lamina_took_over"] == 1)
                #expect(second["lamina_takeover_gap_seconds"].map { $0 > 0 && $0 < 20 } == true)
                // What documentation and dashboard name exists, and what exists is documented.
                let page = try Self.text("docs/metrics.md")
                let families = Set(second.keys.map(Self.family))
                for name in families { #expect(page.contains("`\(name)`"), "\(name) is not in docs/metrics.md") }
                for name in Self.names(in: page) {
                    #expect(families.contains(Self.family(name)), "there is no \(name)")
                }
                for name in Self.names(in: try Self.text("config/grafana/lamina.json")) {
                    #expect(families.contains(Self.family(name)), "the dashboard shows \(name), which is not there")
                }
            }
        }

        @Test("a server is ready as long as its mount answers, and says why when it is not")
        func ready() throws {
            try Sandbox.with { sandbox in
                let server = try sandbox.serve()
                func ask(_ path: String) throws -> Outcome {
                    try run([
                        "curl", "-s", "-w", "%{http_code}", "--unix-socket", sandbox.root + "/control.sock",
                        "http://lamina" + path,
                    ])
                }
                for _ in 0..<3 { #expect(try ask("/readyz").output == "ok\n200") }
                try Mount.unmount(sandbox.root + "/fs", detach: true, force: true)
                #expect(
                    try eventually {
                        let answer = try ask("/readyz").output
                        return answer.hasSuffix("503") && answer.contains("/fs")
                    })
                #expect(try ask("/healthz").output == "ok\n200")
                // The process that asked the mount is not a zombie now.
                let children = try String(
                    decoding: readFile("/proc/\(server.pid)/task/\(server.pid)/children"), as: UTF8.self)
                #expect(children.split(separator: " ").count <= 1)
            }
        }

        @Test("an address that is taken is no reason not to serve mounts")
        func taken() throws {
            try Sandbox.with { sandbox in
                let port = try Shared.registry.get().port
                let settings = sandbox.directory + "/config.toml"
                try write("[metrics]\naddress = \"127.0.0.1:\(port)\"\n".utf8, to: settings)
                let supervised = try sandbox.supervise("--config", settings)
                #expect(eventually { supervised.child.errorsSoFar.contains("metrics cannot be served") })
                #expect(try supervised.isReady())
            }
        }

        /// Where the server that was started as the `count`th serves them, by its log.
        private static func address(_ supervised: Supervised, count: Int = 1) throws -> String {
            func found() -> [Substring] {
                supervised.child.errorsSoFar.split(separator: "\n").filter { $0.contains("metrics are served") }
            }
            guard eventually(seconds: 20, { found().count >= count }),
                let match = found().last?.firstMatch(of: #/address=([0-9.:]+)/#)
            else { throw Outcome.Failed(description: "no metrics are served\n\(supervised.child.errorsSoFar)") }
            return String(match.1)
        }

        /// The samples of a scrape: `name{label=value}` and number.
        private static func samples(_ address: String) throws -> [String: Double] {
            let outcome = try run(["/usr/bin/python3", "-c", Scripts.scrape, "http://\(address)/metrics"]).orThrow()
            return outcome.output.split(separator: "\n").reduce(into: [:]) { result, line in
                // A label may contain spaces.
                guard let space = line.lastIndex(of: " ") else { return }
                result[String(line[..<space])] = Double(line[line.index(after: space)...])
            }
        }

        private static func text(_ path: String) throws -> String {
            String(decoding: try readFile(Fixtures.directory + "/../../" + path), as: UTF8.self)
        }

        private static func names(in text: String) -> Set<String> {
            Set(text.matches(of: #/\b(lamina|process)_[a-z_]*[a-z]/#).map { String($0.output.0) })
        }

        /// The name in HELP and TYPE.
        private static func family(_ sample: String) -> String {
            let name = sample.prefix { $0 != "{" }
            for end in ["_bucket", "_sum", "_count"] where name.hasSuffix("_seconds" + end) {
                return String(name.dropLast(end.count))
            }
            return String(name)
        }
    }
}
