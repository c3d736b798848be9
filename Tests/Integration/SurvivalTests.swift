import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite("a mount outlives its server", Requirements.passthrough)
    struct Survival {
        @Test("under SIGKILL again and again no call of a reader fails, no byte is wrong, and nothing is left behind")
        func chaos() throws {
            try Sandbox.with { sandbox in
                // `make chaos` runs the same for long.
                let script = Fixtures.directory + "/../Chaos/chaos.py"
                let outcome = try run(
                    [
                        "python3", script, "--lamina", Requirements.lamina, "--directory", sandbox.directory,
                        "--seconds", "30", "--minimum-kills", "20",
                    ], seconds: 240)
                #expect(outcome.exitCode == 0, "\(outcome)")
                print(outcome.output)
            }
        }

        @Test(
            "a server that is stopped is killed by the watchdog, and who waited gets the right bytes from the next one")
        func stopped() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let supervised = try sandbox.supervise("--watchdog-seconds", "2")
                let mount = try sandbox.mount(image.reference(try sandbox.proxy()))
                let server = try #require(supervised.server)
                kill(server, SIGSTOP)
                let readers = try ["files/000/00001", "middle", "larger"].map {
                    try sandbox.startProgram(["cmp", "\(mount)/\($0)", "\(image.tree)/\($0)"])
                }
                for reader in readers {
                    let outcome = reader.wait(seconds: 30)
                    #expect(outcome.exitCode == 0, "\(outcome)")
                }
                #expect(supervised.server != server)
                #expect(supervised.child.errorsSoFar.contains("gives no sign of life"))
                #expect(supervised.takeovers == 1)
            }
        }

        /// How many restarts in a row: `make chaos` sets LAMINA_RESTARTS for more.
        private static let restarts = getenv("LAMINA_RESTARTS").flatMap { Int(String(cString: $0)) } ?? 20

        @Test(
            "a running program whose text is mapped from the mount does not notice restarts, whether the kernel or the server reads it",
            arguments: ["passthrough", "cached"])
        func mappedProgram(_ mode: String) throws {
            try Sandbox.with { sandbox in
                let tree = try sandbox.mountPoint("tree")
                try run(["cp", "/bin/bash", tree]).orThrow()
                let image = "oci:\(sandbox.directory)/program:latest"
                try sandbox.lamina("convert", "--chunk-size", "65536", "dir:\(tree)", image)
                let settings = sandbox.directory + "/config.toml"
                try write("[fuse]\nlazy_threshold = \(mode == "cached" ? 0 : 1 << 30)\n".utf8, to: settings)
                let supervised = try sandbox.supervise("--config", settings)
                let mount = try sandbox.mount(image)
                let (told, stop) = (sandbox.directory + "/told", sandbox.directory + "/stop")
                // Arithmetic, expansion, redirection and subshells, to use all kinds of pages of the program.
                let program = try sandbox.startProgram([
                    "\(mount)/bash", "-c",
                    """
                    n=0
                    while [ ! -e "$2" ]; do
                        n=$((n + 1)); text=$(printf '%s-%s' "$n" "${n//[02468]/x}"); [[ $text == $n-* ]] || exit 1
                        echo "$n" >"$1.new"; mv "$1.new" "$1"
                    done
                    """, "bash", told, stop,
                ])
                func turns() -> Int { (try? readFile(told)).map(numberOf) ?? 0 }
                func numberOf(_ text: [UInt8]) -> Int {
                    Int(String(decoding: text, as: UTF8.self).filter(\.isNumber)) ?? 0
                }
                #expect(eventually(seconds: 20) { turns() > 0 })
                let opens = try sandbox.opens()
                #expect(mode == "cached" ? opens.cached > 0 : opens.passthrough > 0 && opens.cached == 0)
                // Its pages are taken away all the time, and read again through the mapping. Pages that are not on disk yet
                // cannot be.
                try run(["sync", "-f", sandbox.root]).orThrow()
                let taker = try sandbox.startProgram(["python3", "-c", Scripts.pageOut, "\(program.pid)", "bash"])
                let faults = majorFaults(program.pid)
                for turn in 0..<Self.restarts {
                    let before = turns()
                    try supervised.killServer()
                    // A name that the server before cannot have answered for.
                    let asked = try run(["stat", "\(sandbox.root)/fs/none-\(turn)"], seconds: 20)
                    #expect(asked.errors.contains("No such file"), "\(asked)")
                    #expect(eventually(seconds: 20) { turns() > before + 1 || !program.isRunning })
                    try #require(program.isRunning, "\(program.wait())")
                }
                #expect(majorFaults(program.pid) >= faults + Self.restarts)
                #expect(taker.isRunning)
                try write([], to: stop)
                #expect(program.wait(seconds: 20).exitCode == 0)
                #expect(taker.wait(seconds: 20).exitCode == 0)
                #expect(try eventually(seconds: 20) { try supervised.isReady() })
            }
        }

        @Test(
            "the way that a file is served in is right after a kill: cached while such opens are left, then passthrough"
        )
        func modes() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let proxy = try sandbox.proxy()
                let supervised = try sandbox.supervise()
                let mount = try sandbox.mount(image.reference(proxy))
                let name = "larger"
                func ready() throws {
                    #expect(try eventually(seconds: 20) { try supervised.isReady() })
                }
                func read() throws {
                    try run(["cmp", "\(mount)/\(name)", "\(image.tree)/\(name)"], seconds: 30).orThrow()
                }
                // Opened before it is merged, and kept.
                let kept = try File("\(mount)/\(name)", O_RDONLY)
                try supervised.killServer()
                try read()
                #expect(
                    try eventually(seconds: 30) {
                        try sandbox.number("SELECT count(*) FROM file WHERE path = '/larger' AND state = 'merged'") == 1
                    }, "the merge of a file that is open goes on in the next server")
                try supervised.killServer()
                try ready()
                try read()
                #expect(try sandbox.opens().passthrough == 0, "a cached open is left")
                withExtendedLifetime(kept) {}
            }
        }

        @Test(
            "after the last cached open is closed, a kill later, the kernel reads the file; and keeps its backing ID over kills"
        )
        func modeChanges() throws {
            try Sandbox.with { sandbox in
                let image = try Shared.small.get()
                let supervised = try sandbox.supervise()
                let mount = try sandbox.mount(image.reference(try sandbox.proxy()))
                let (path, source) = ("\(mount)/larger", "\(image.tree)/larger")
                func ready() throws {
                    #expect(try eventually(seconds: 20) { try supervised.isReady() })
                }
                var kept: File? = try File(path, O_RDONLY)
                try sandbox.lamina("pull", image.reference(try sandbox.proxy()))
                try supervised.killServer()
                try ready()
                withExtendedLifetime(kept) {}
                // The release comes to a server that did not see the open.
                kept = nil
                try supervised.killServer()
                try ready()
                try run(["cmp", path, source], seconds: 30).orThrow()
                #expect(try sandbox.opens().passthrough == 1)
                let through = try File(path, O_RDONLY)
                for _ in 0..<3 {
                    try supervised.killServer()
                    try ready()
                    // A second ID for the inode would be EIO.
                    try run(["cmp", path, source], seconds: 30).orThrow()
                    let opens = try sandbox.opens()
                    #expect(opens.passthrough == 1 && opens.cached == 0 && opens.reads == 0)
                }
                withExtendedLifetime(through) {}
            }
        }
    }
}
