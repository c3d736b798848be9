import Glibc
import LaminaStore
import LaminaSystem
import LaminaTestSupport
import Testing

@testable import LaminaDaemon

@Suite("the debug bundle")
struct DebugBundleTests {
    private func write(_ text: String, to path: String) throws {
        let file = try File(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
        try Array(text.utf8).withUnsafeBytes { try file.write($0, at: 0) }
    }

    @Test("has versions, configuration, findings and views, and no password of configuration, environment or log")
    func secrets() async throws {
        let directory = Scratch()
        try await onThread("test") {
            _ = try Store(root: directory.path + "/store")
            try write(
                """
                [store]
                root = "\(directory.path)/store"
                [resolver]
                creds_file = "/etc/creds.json"
                [http]
                plain = ["user:hunter2-a@registry.local"]
                [[resolver.host."a:1".mirrors]]
                host = "m.example"
                [resolver.host."a:1".mirrors.header]
                Authorization = "Basic hunter2-b"
                """, to: directory.path + "/config.toml")
            try write(
                """
                2026-01-01T00:00:00Z warn asked http://me:hunter2-c@registry/v2/ again
                2026-01-01T00:00:00Z warn Authorization: Bearer hunter2-d
                2026-01-01T00:00:00Z warn said password=hunter2-e and went on
                2026-01-01T00:00:00Z info a line that stays
                """, to: directory.path + "/store/server.log")
            var places = LoadedConfiguration.Places()
            places.directory = directory.path
            places.environment = [
                "https_proxy": "http://proxy:hunter2-f@proxy:3128", "LAMINA_TOKEN": "hunter2-g",
                "LAMINA_LOG_LEVEL": "debug",
                "AWS_SECRET": "hunter2-h",
            ]
            let output = directory.path + "/bundle.json"
            try DebugBundleCommand(output: output).run(places, Output(plainWithJSON: true))
            let text = String(decoding: try readFile(output), as: UTF8.self)
            #expect(!text.contains("hunter2"), "\(text.split(separator: "\n").filter { $0.contains("hunter2") })")
            for part in [
                "\"versions\"", laminaVersion, "\"fuse.merge_buffer_size\"", "environment LAMINA_LOG_LEVEL",
                "https_proxy",
                "\"condition\"", "\"cache_usage\"", "\"image_status\"", "a line that stays",
            ] {
                #expect(text.contains(part), "\(part)")
            }
            #expect(!text.contains("AWS_SECRET"))
            var status = stat()
            #expect(stat(output, &status) == 0 && status.st_mode & 0o777 == 0o600)
            // A second one does not overwrite the first.
            #expect(throws: SystemError.self) {
                try DebugBundleCommand(output: output).run(places, Output(plainWithJSON: true))
            }
        }
    }

    @Test("is made of a wrong configuration too, and where there is no store")
    func broken() async throws {
        let directory = Scratch()
        try await onThread("test") {
            try write("[log]\nlevel = \"hunter2\"\n", to: directory.path + "/config.toml")
            var places = LoadedConfiguration.Places()
            places.directory = directory.path
            places.root = directory.path + "/none"
            let bundle = try DebugBundleCommand.gather(places)
            #expect(bundle.configuration.error?.contains("line 2: log.level must be one of") == true)
            #expect(bundle.configuration.error?.contains("hunter2") == false)
            #expect(bundle.views.isEmpty && bundle.problems.count == 2)
        }
    }

    @Test(
        "what looks like a secret is taken out of a text, and nothing else",
        arguments: [
            ("https://a:b@host/x?y=z", "https://hidden@host/x?y=z"),
            ("http://host/a@sha256:00", "http://host/a@sha256:00"),
            ("user:pw@host", "hidden@host"), ("localhost:5000/app:1@sha256:00", "localhost:5000/app:1@sha256:00"),
            ("{\"identitytoken\": \"abc\", \"n\": 1}", "{\"identitytoken\": hidden, \"n\": 1}"),
            ("token = 'x y' # z", "token = hidden # z"), ("bearer abcdefgh.ij", "bearer hidden"),
            ("docker.io/library/debian:12", "docker.io/library/debian:12"),
            ("merged 12 of 13 at /var/lib/lamina", "merged 12 of 13 at /var/lib/lamina"),
        ])
    func redaction(text: String, clean: String) {
        #expect(Redaction.clean(text) == clean)
    }
}
