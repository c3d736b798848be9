import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("by CRI, as under kubelet", Containerd.isInstalled)
    struct ByCRI {
        /// Runs the program that writes to the image's files, then waits.
        private static let script = "/usr/bin/python3 -c \"$0\" && exec sleep 600"

        /// Starts a pod with a container of an image, and waits until its program has reported that all is well.
        func runProgram(
            _ reference: String, _ cri: CRI, _ sandbox: Sandbox
        ) throws -> (pod: String, container: String) {
            let logs = try sandbox.mountPoint("logs")
            let pod = try cri("run-pod", "pod", logs)
            let container = try cri(
                "run", pod, "program", logs, reference, "/bin/sh", "-c", Self.script, ProgramImage.program)
            func log() -> String {
                (try? readFile(logs + "/program.log")).map { String(decoding: $0, as: UTF8.self) } ?? ""
            }
            let isFine = eventually(seconds: 120) { log().contains(" stdout F fine\n") }
            #expect(isFine, "\(log())")
            #expect(try cri("state", container) == "running 0")
            // Later containers see what the program has done to files of the image.
            let seen = try cri("exec", container, "/bin/sh", "-c", "cat /data/above; stat -c %a /usr/bin/sleep")
            #expect(seen == "above\n4711\n")
            return (pod, container)
        }

        private func lazyLayers(_ sandbox: Sandbox) throws -> [String] {
            try sandbox.sql("SELECT layer FROM snapshot_status WHERE lazy = 'yes' AND kind = 'committed'")
        }

        @Test("a pod's image is pulled, run, written to and removed, and no layer is downloaded")
        func pod() throws {
            try CRI.with { cri, sandbox in
                _ = try ProgramImage.pushed.get()
                let proxy = try sandbox.proxy()
                let reference = "\(proxy.host)/program/estargz:1"
                let id = try cri("pull", reference)
                #expect(id.hasPrefix("sha256:"), "\(id)")
                #expect(try cri("image", reference) == id)
                #expect(try cri("images").split(separator: "\n").contains { $0 == reference })
                #expect(try cri("filesystem").contains("lamina"))
                let pulled = try lazyLayers(sandbox)
                let all = try sandbox.sql("SELECT * FROM snapshot_status")
                #expect(pulled.count == 2, "\(all)")

                let (pod, container) = try runProgram(reference, cri, sandbox)

                // The files of the image, and of the one that each pod starts with.
                let lazy = try lazyLayers(sandbox)
                let running = try sandbox.sql("SELECT * FROM snapshot_status")
                #expect(lazy.count == 3, "\(running)")
                #expect(try cri.containerd.blobs(namespace: "k8s.io").isDisjoint(with: lazy), "layers were downloaded")
                let byContainerd = proxy.requests.filter { $0.fields["user-agent"]?.hasPrefix("containerd/") == true }
                #expect(!byContainerd.isEmpty)
                #expect(byContainerd.allSatisfy { request in !lazy.contains { request.path.contains($0) } })

                try cri("stop", container)
                #expect(try cri("state", container).hasPrefix("exited 1"))
                try cri("remove", container)
                #expect(try cri.attempt(["state", container]).errors.hasPrefix("NotFound "))
                try cri("stop-pod", pod)
                try cri("remove-pod", pod)
                try cri("remove-image", reference)
                #expect(try cri("image", reference).isEmpty)
                #expect(try eventually(seconds: 20) { try lazyLayers(sandbox).count == 1 })
                try cri("remove-image", CRI.pauseImage.get())
                #expect(try eventually(seconds: 20) { try sandbox.number("SELECT count(*) FROM snapshot") == 0 })
            }
        }

        @Test("what a registry wants to see comes with the pull alone, and the server after a kill has it still")
        func credentials() throws {
            _ = try ProgramImage.pushed.get()
            let registry = try RegistryFixture(
                guarded: .init(htpasswd: RegistryPulls.htpasswd), serving: Shared.registry.get())
            defer { registry.stop() }
            // With nothing fetched before it is opened.
            try CRI.with("[snapshotter]\nbackground_merge = false\n") { cri, sandbox in
                let reference = "\(registry.host)/program/estargz:1"
                let kept = sandbox.root + "/credentials.json"
                func isKept() -> Bool {
                    (try? readFile(kept)).map { String(decoding: $0, as: UTF8.self).contains("pass:word") } ?? false
                }
                let wrong = ["pull", reference, "tester", "wrong:word"]
                for words in [["pull", reference], wrong] {
                    // Through lamina's socket as through containerd's own.
                    let refused = try cri.attempt(words)
                    let direct = try cri.attempt(words, images: Containerd.socket(in: sandbox))
                    #expect(refused.exitCode == 1 && refused.errors.contains("401 Unauthorized"), "\(refused)")
                    #expect(refused.errors == direct.errors)
                    #expect(!isKept())
                }
                try cri("pull", reference, "tester", "pass:word")
                #expect(isKept())
                #expect(try File(kept, O_RDONLY).status().st_mode & 0o777 == 0o600)
                let lazy = try lazyLayers(sandbox)
                let all = try sandbox.sql("SELECT * FROM snapshot_status")
                #expect(lazy.count == 2, "\(all)")

                try cri.containerd.lamina.killServer()
                // A client with wrong credentials does not break it.
                #expect(try cri.attempt(wrong).exitCode == 1)
                #expect(isKept())
                let fetched = try sandbox.number("SELECT count(*) FROM content WHERE state = 2")
                _ = try runProgram(reference, cri, sandbox)
                #expect(try sandbox.number("SELECT count(*) FROM content WHERE state = 2") > fetched)
                #expect(try cri.containerd.blobs(namespace: "k8s.io").isDisjoint(with: lazy), "layers were downloaded")

                // It is in that file, and nowhere else.
                #expect(try run(["grep", "-rl", "pass:word", sandbox.root]).output == kept + "\n")
                let log = cri.containerd.lamina.child.errorsSoFar
                #expect(
                    !log.contains("pass:word") && !log.contains("wrong:word") && !log.contains("dGVzdGVyOnBhc3M6d29yZA")
                )
                let bundle = try sandbox.lamina("debug", "bundle", "--output", "-").output
                #expect(!bundle.contains("pass:word"))
            }
        }
    }
}
