import Glibc
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd.Strangers {
    /// The sockets with a name that processes listen at or take datagrams from, by /proc/net/unix.
    private func sockets(of processes: [pid_t]) throws -> Set<String> {
        let open = Set(
            processes.flatMap { pid in
                names(in: "/proc/\(pid)/fd").compactMap { name in
                    (try? run(["readlink", "/proc/\(pid)/fd/\(name)"]))?.output.firstMatch(of: /socket:\[(\d+)\]/)
                        .map { String($0.1) }
                }
            })
        let table = String(decoding: try readFile("/proc/net/unix"), as: UTF8.self).split(separator: "\n").dropFirst()
        return Set(
            table.compactMap { line in
                // Num RefCount Protocol Flags Type St Inode Path; 00010000 in the flags: it listens; type 2: datagrams.
                let words = line.split(separator: " ")
                guard words.count > 7, open.contains(String(words[6])) else { return nil }
                return words[3] == "00010000" || words[4] == "0002" ? String(words[7]) : nil
            })
    }

    /// Where a socket can be reached: /proc/net/unix has the name that it was bound to, which may be one beside the last name (".PID-NAME"), or one
    /// by way of a directory's descriptor.
    private func place(of bound: String, in sandbox: Sandbox) -> String? {
        guard !bound.hasPrefix("@"), let last = bound.split(separator: "/").last else { return bound }
        let name = last.hasPrefix(".") ? last.drop { $0 != "-" }.dropFirst() : last
        return [sandbox.root, sandbox.directory].map { "\($0)/\(name)" }.first { access($0, F_OK) == 0 }
    }

    @Test("it can open no connection to any socket of the server or its supervisor")
    func connections() throws {
        try Self.with { sandbox in
            let supervised = try sandbox.supervise("--address", sandbox.directory + "/l.sock")
            let bound = try sockets(of: [supervised.child.pid, #require(supervised.server)])
            let found = bound.compactMap { place(of: $0, in: sandbox) }
            #expect(found.count == bound.count, "\(bound.sorted()): only \(found)")
            print("sockets of the server and its supervisor: \(found.sorted())")
            for name in ["control.sock", "l.sock", "notify-"] {
                #expect(found.contains { $0.contains("/\(name)") }, "\(name) is not among them")
            }
            let attack = """
                import socket, sys
                for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
                    try: socket.socket(socket.AF_UNIX, kind).connect(sys.argv[1].replace("@", "\\0", 1) if sys.argv[1][0] == "@" else sys.argv[1])
                    except PermissionError: print("refused")
                    except OSError as error: print(error)
                    else: print("connected")
                """
            for path in found {
                let outcome = try asStranger(["/usr/bin/python3", "-c", attack, path]).orThrow()
                #expect(outcome.output == "refused\nrefused\n", "\(path): \(outcome.output)")
                let own = try run(["/usr/bin/python3", "-c", attack, path]).orThrow()
                #expect(own.output.contains("connected"), "\(path): \(own.output)")
            }
        }
    }
}
