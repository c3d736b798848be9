import Glibc
import LaminaDigest
import LaminaOCI
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("pulls from registries")
    struct RegistryPulls {
        // MARK: What is there is not fetched

        @Test("the same image twice fetches no byte of any blob the second time, and a mount needs no registry")
        func twice() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let reference = image.reference(proxy)
                try sandbox.lamina("pull", reference)
                proxy.reset()
                let again: PullReport = try decoded(sandbox.lamina("pull", "--json", reference).output)
                #expect(again.complete && again.fetchedBytes == 0)
                #expect(proxy.sentByteCount() == 0)
                #expect(proxy.requests.allSatisfy { $0.blob == nil })
                // Offline from here on.
                proxy.stop()
                let mount = try sandbox.mount(reference)
                try TreeOracle.expectSame(image.tree, at: mount, in: sandbox)
                #expect(try sandbox.status().images.map(\.state) == ["complete"])
                try sandbox.lamina("umount", mount)
                #expect(try sandbox.attempt("pull", reference).exitCode == 75)
            }
        }

        @Test("an image that shares 90 % of its files fetches about 10 %")
        func sharing() throws {
            try Sandbox.with { sandbox in
                func image(_ name: String, _ seeds: [UInt64]) throws -> Int64 {
                    let layer = HandmadeLayer(seeds.map { .init("file\($0)", noise(200_000, seed: $0)) })
                    let made = try HandmadeImage("\(sandbox.directory)/\(name)", layer)
                    try Shared.registry.get().push(
                        layout: made.directory, sourceTag: "x", name: "sharing/\(name)", tag: "x")
                    return Int64(layer.blob().count)
                }
                let proxy = try sandbox.proxy()
                _ = try image("one", Array(1...50))
                let size = try image("two", Array(1...45) + [101, 102, 103, 104, 105])
                try sandbox.lamina("pull", "\(proxy.host)/sharing/one:x")
                proxy.reset()
                let report: PullReport = try decoded(
                    sandbox.lamina("pull", "--json", "\(proxy.host)/sharing/two:x").output)
                print("90 % shared: \(proxy.sentByteCount()) of \(size) bytes sent")
                #expect(report.complete)
                // A tenth: the table of contents and what is read along with it.
                #expect(proxy.sentByteCount() < size / 10 + 400_000)
            }
        }

        // MARK: Other writers

        @Test("what skopeo pushes is pulled, as Docker schema 2 and as OCI", arguments: ["v2s2", "oci"])
        func skopeo(format: String) throws {
            try #require(access("/usr/bin/skopeo", X_OK) == 0, "this test needs skopeo (apt install skopeo)")
            try Sandbox.with { sandbox in
                let proxy = try sandbox.proxy()
                let registry = try Shared.registry.get()
                let layout = Fixtures.layout("estargz")
                try Skopeo.copy(
                    [
                        "--dest-tls-verify=false", "--format", format, "oci:\(layout)",
                        "docker://\(registry.host)/skopeo/\(format):v1",
                    ], in: sandbox)
                let reference = "\(proxy.host)/skopeo/\(format):v1"
                let report: PullReport = try decoded(sandbox.lamina("pull", "--json", reference).output)
                #expect(report.complete)
                // The same files as of the layout itself.
                let (pulled, direct) = (try sandbox.mount(reference), try sandbox.mount("oci:\(layout)", at: "direct"))
                try TreeOracle.expectSame(direct, at: pulled, in: sandbox)
                #expect(try run(["sh", "-c", "find \(pulled) -type f | wc -l"]).output != "0\n")
            }
        }

        // MARK: Mirrors, passwords, tokens: the executable

        @Test("TLS, a password and a mirror that lies, through hosts.toml and --creds-file; doctor tells each step")
        func configured() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let authority = try TestAuthority()
                defer { removeTree(authority.directory) }
                let registry = try RegistryFixture(
                    guarded: .init(certificate: authority.server, htpasswd: Self.htpasswd),
                    serving: Shared.registry.get())
                defer { registry.stop() }
                let mirror = try sandbox.proxy()
                mirror.faults.corruptions = [.init(digest: image.layer, offset: image.layerSize / 2)]
                let certs = "\(sandbox.directory)/certs/\(registry.host)"
                try createDirectories(certs)
                try write(
                    "ca = \"\(authority.certificate)\"\n[host.\"http://\(mirror.host)\"]\n".utf8,
                    to: certs + "/hosts.toml")
                let (config, creds) = (sandbox.directory + "/config.toml", sandbox.directory + "/creds.json")
                try write("[resolver]\nconfig_path = \"\(sandbox.directory)/certs\"\n".utf8, to: config)
                try write(
                    #"{"auths": {"\#(registry.host)": {"username": "tester", "password": "pass:word"}}}"#.utf8,
                    to: creds)
                let reference = "\(registry.host)/small:latest"
                let options = ["--config", config, "--creds-file", creds]
                let report: PullReport = try decoded(
                    sandbox.start(["pull", "--json", reference] + options).wait(seconds: 120).orThrow().output)
                #expect(report.complete && mirror.sentByteCount(of: image.layer) > 0)
                // Nothing secret is written anywhere.
                let found = try run(["grep", "-rl", "pass:word", sandbox.root])
                #expect(found.output.isEmpty, "\(found.output)")
                let doctor = try sandbox.start(["doctor", reference] + options).wait(seconds: 60).orThrow()
                for word in [
                    "http://\(mirror.host), configured in \(certs)/hosts.toml", "https://\(registry.host)",
                    "HTTP/2, TLS, verified",
                    "basic, with the credentials from \(creds)", "layer 1 of 1", "eStargz: lazy", "can be pulled",
                ] { #expect(doctor.output.contains(word), "\(word): \(doctor.output)") }
                #expect(!doctor.output.contains("pass:word") && !doctor.errors.contains("pass:word"))
                let refused = try sandbox.start(["doctor", reference, "--config", config]).wait(seconds: 60)
                #expect(refused.output.contains("there are none for \(registry.host)"), "\(refused)")
            }
        }

        /// `htpasswd -nbBC 4 tester pass:word`
        static let htpasswd = "tester:$2y$04$1R50DTm1OftS06QFNHu.TO.SNKHZ/u/xvrQNwq.qUN6ijlUwY5xK6"

        @Test("the proxy that the environment names is asked for registries elsewhere, unless no_proxy has them")
        func proxies() throws {
            try Sandbox.with { sandbox in
                _ = try Shared.small.get()
                let proxy = try sandbox.proxy()
                // No such machine exists: a client that reaches it used the proxy.
                let arguments = [
                    Requirements.lamina, "pull", "--lazy", "--plain-http", "registry.invalid:5000/small:latest",
                    "--root",
                    sandbox.root,
                ]
                for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
                    proxy.reset()
                    let clean = ["no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].flatMap {
                        ["-u", $0]
                    }
                    try sandbox.startProgram(["env"] + clean + ["\(variable)=http://\(proxy.host)"] + arguments)
                        .wait(seconds: 60).orThrow()
                    #expect(
                        proxy.requests.first?.path.hasPrefix("http://registry.invalid:5000/v2/small/manifests/") == true
                    )
                }
                let without = ["env", "http_proxy=http://\(proxy.host)", "no_proxy=registry.invalid"] + arguments
                let refused = try sandbox.startProgram(without).wait(seconds: 60)
                #expect(refused.exitCode == 75 && refused.errors.contains("registry.invalid"), "\(refused)")
            }
        }
    }
}
