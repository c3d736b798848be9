import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    /// Message by message, with the other side in Python, as in sd_notify(3) and sd_listen_fds(3).
    @Suite("the protocol between a service and its manager")
    struct ServiceProtocol {
        @Test(
            "the server speaks to its manager as sd_notify(3) says, and takes back what it gave as sd_listen_fds(3) says"
        )
        func server() throws {
            try Sandbox.with { sandbox in
                let mount = try sandbox.mountPoint()
                let outcome = try run(
                    [
                        "python3", "-c", Scripts.manager, Requirements.lamina, sandbox.root, mount,
                        "oci:\(Fixtures.layout("estargz"))",
                    ], seconds: 120)
                #expect(outcome.exitCode == 0, "\(outcome)")
            }
        }

        /// In its own namespaces; without systemd or the rights for that, the other tests must do.
        @Test(
            "lamina's own unit under a real systemd: killed, restarted, stopped by SIGSTOP, it goes on with its mounts",
            .enabled(if: access("/lib/systemd/systemd", X_OK) == 0, "systemd is not installed"))
        func systemd() throws {
            try Sandbox.with { sandbox in
                let outcome = try run(
                    [
                        "python3", Fixtures.directory + "/../Chaos/systemd.py", "--lamina", Requirements.lamina,
                        "--unit",
                        Fixtures.directory + "/../../config/systemd/lamina.service", "--image",
                        "oci:\(Fixtures.layout("estargz"))", "--directory", sandbox.directory,
                    ], seconds: 240)
                if outcome.exitCode == 77 {
                    print("systemd cannot be started here:\n\(outcome.output)\(outcome.errors)")
                } else {
                    #expect(outcome.exitCode == 0, "\(outcome)")
                }
            }
        }

        @Test("the supervisor does for a service what systemd does: keeps, gives back, removes, watches, restarts")
        func supervisor() throws {
            try Sandbox.with { sandbox in
                let program = sandbox.directory + "/service"
                try write(Scripts.service.utf8, to: program)
                chmod(program, 0o755)
                let told = sandbox.directory + "/told"
                let supervisor = try sandbox.start(
                    ["serve", "--supervise", "--program", program, "--watchdog-seconds", "2", "--verbose"])
                defer { supervisor.send(SIGKILL) }
                let outcome = supervisor.wait(seconds: 60)
                let text = String(decoding: (try? readFile(told)) ?? [], as: UTF8.self)
                #expect(outcome.exitCode == 7, "the code of the service that was told to end\n\(outcome)\n\(text)")
                #expect(
                    text.split(separator: "\n") == [
                        "1: nothing held", "1: the barrier is passed", "1: SIGHUP came",
                        "2: held b:twice:twice", "2: contents b twice twice2", "2: predecessor's end is told",
                        "3: held b", "3: was killed by the watchdog before", "3: SIGINT came",
                    ], "\(text)")
            }
        }

        @Test(
            "servers that die before they are ready are started further and further apart; the time that one took counts, and whether it answered"
        )
        func pauses() throws {
            try Sandbox.with { sandbox in
                let program = sandbox.directory + "/service"
                try write(Scripts.dyingService.utf8, to: program)
                chmod(program, 0o755)
                let supervisor = try sandbox.start(["serve", "--supervise", "--program", program])
                defer { supervisor.send(SIGKILL) }
                let outcome = supervisor.wait(seconds: 60)
                #expect(outcome.exitCode == 0, "\(outcome)")
                let pauses = outcome.errors.split(separator: "\n").compactMap { line in
                    line.firstRange(of: "pause=\"").flatMap { Double(line[$0.upperBound...].prefix { $0 != " " }) }
                }
                // One that was ready; four that took half a second each; three that died at once; one that had answered.
                #expect(pauses.count == 9 && pauses.prefix(5).allSatisfy { $0 == 0 }, "\(pauses)")
                #expect(pauses.count == 9 && (0.1...3.2).contains(pauses[7]) && pauses[8] == 0, "\(pauses)")
            }
        }
    }
}
