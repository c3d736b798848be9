import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd.UnderContainerd {
    @Test(
        "twenty lazily pulled images, mounted and read, take at most 100 MiB and no processor when nobody asks for anything"
    )
    func idle() throws {
        try Self.with { containerd, sandbox in
            let references = try Self.pushed(20, files: 500, sandbox)
            for (number, reference) in references.enumerated() {
                try containerd.pullLazily(reference)
                let mount = try sandbox.mountPoint("view\(number)")
                try containerd.mountImage(reference, at: mount)
                #expect(try run(["/bin/sh", "-c", "cat \"$1\"/* | wc -l", "sh", mount]).orThrow().output == "501\n")
            }
            #expect(try sandbox.number("SELECT count(*) FROM snapshot_status WHERE lazy = 'yes'") == 20)
            // What comes after: the rest is merged and proven, and what is recorded is made durable.
            let isAtRest = try eventually(seconds: 60) {
                try sandbox.number(
                    "SELECT count(*) FROM layer_status WHERE state <> 'complete' OR diff_id_proof = 'not yet'") == 0
            }
            #expect(isAtRest)
            // Opens are recorded every 15 seconds.
            sleep(20)

            // The supervisor, the server, and the process that watches its mount.
            let pids = processes(withArgumentContaining: sandbox.root)
            let server = try #require(containerd.lamina.server)
            #expect(pids.contains(containerd.lamina.child.pid) && pids.contains(server))
            let before = pids.map(processorTime)
            sleep(10)
            let used = zip(pids, before).reduce(0) { $0 + processorTime($1.0) - $1.1 }
            let resident = residentBytes(server)
            print("twenty images, idle: \(resident >> 20) MiB; \(pids.count) processes, \(used / 1000) µs in 10 s")
            #expect(resident > 0 && resident <= 100 << 20)
            // A look at the clock each second.
            #expect(used <= 20_000_000)
            for number in references.indices { try containerd.unmountImage("\(sandbox.directory)/view\(number)") }
        }
    }
}
