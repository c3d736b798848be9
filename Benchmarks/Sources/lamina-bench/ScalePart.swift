import Foundation

extension Bench {
    /// A store of a million files in ten images: queries by people, commands and containerd.
    func scalePart() throws {
        let files = options.quick ? 10_000 : 100_000
        let images = try (0..<10).map { try inputs.scaleImage($0, files: files) }
        let unlisted = try inputs.unlistedImage(
            layers: options.quick ? 10 : 40, directories: options.quick ? 1000 : 4000)
        let store = try space.fresh("store-scale")
        for image in images {
            let pulled = try settled { try pull("oci:\(image.layout):1", into: store) }
            add("scale.pull", pulled.cpu)
        }
        add("scale.bytes", Double(fileSize(store + "/index.db")) / Double(files * images.count))
        let names = try references(store)
        guard names.count == images.count, let name = names.first else { throw Failure("\(store) has \(names)") }

        for _ in 0..<rounds(3, quick: 2) {
            add("scale.repull", try pull("oci:\(images[0].layout):1", into: store).wall)
        }
        for round in 0..<rounds(20, quick: 5) {
            add("scale.ls", try command("ls", "--root", store))
            add("scale.status", try command("status", "--root", store))
            let path = Inputs.scalePath(round * 37 % (files / 100))
            add("scale.inspect", try command("inspect", "--root", store, name, path))
        }
        try queries(store, name)
        for _ in 0..<rounds(3, quick: 1) {
            let all = try command("check", "--root", store) / 1000
            let one = try command("check", "--root", store, name) / 1000
            add("scale.check", one / all * Double(images.count))
            add("scale.check.all", all)
            add("scale.check.one", one)
        }
        try cleanups(store)

        let other = try space.fresh("store-unlisted")
        add("scale.unlisted.first", try pull("oci:\(unlisted)", into: other).wall)
        for _ in 0..<rounds(3, quick: 2) { add("scale.unlisted", try pull("oci:\(unlisted)", into: other).wall) }
        try space.putAside(other)
        try space.putAside(store)
    }

    private func pull(_ reference: String, into store: String) throws -> Usage {
        try run([space.lamina, "pull", "--json", "--root", store, reference]).usage
    }

    private func references(_ store: String) throws -> [String] {
        try run(["sqlite3", "-readonly", store + "/index.db", "SELECT reference FROM image_status ORDER BY 1"]).output
            .split(separator: "\n").map(String.init)
    }

    /// - Returns: how long the process took, in milliseconds.
    private func command(_ arguments: String...) throws -> Double {
        let begin = now()
        _ = try run([space.lamina] + arguments)
        return (now() - begin) * 1000
    }

    /// Each block of SQL of the two pages, for one of the images of this store.
    private func queries(_ store: String, _ reference: String) throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        var asked = 0
        for page in ["docs/inspecting.md", "schema/README.md"] {
            let text = try String(contentsOf: root.appendingPathComponent(page), encoding: .utf8)
            for block in text.components(separatedBy: "```sql\n").dropFirst() {
                let sql = (block.components(separatedBy: "\n```").first ?? "")
                    .replacingOccurrences(of: "localhost:5000/app:1", with: reference)
                asked += 1
                var slowest = 0.0
                for _ in 0..<rounds(5, quick: 2) {
                    let begin = now()
                    _ = try run(["sqlite3", "-readonly", store + "/index.db", sql])
                    let seconds = now() - begin
                    slowest = max(slowest, seconds)
                    add("scale.query", seconds)
                }
                if slowest > 0.3 { say("\(slowest) s: \(sql.prefix(200))") }
            }
        }
        guard asked >= 30 else { throw Failure("only \(asked) queries were found in the pages") }
    }

    /// What containerd calls after each container, on a server that has nothing to clean up.
    private func cleanups(_ store: String) throws {
        guard isInstalled("curl") else { return findings.note("scale.cleanup", "curl is missing") }
        let socket = space.run + "/containerd.sock"
        let process = try Child(
            [space.lamina, "serve", "--root", store, "--address", socket], output: space.run + "/serve-scale.log")
        Cleanup.hold(mount: store + "/fs")
        defer {
            process.end()
            umount2(store + "/fs", Int32(MNT_DETACH))
            Cleanup.release(mount: store + "/fs")
        }
        for _ in 0..<2000 where access(socket, F_OK) != 0 { usleep(10_000) }
        guard access(socket, F_OK) == 0 else {
            return findings.note("scale.cleanup", "this build does not speak to containerd")
        }
        for round in 0..<rounds(20, quick: 5) {
            let key = "bench-\(round)"
            _ = try call("Prepare", [(1, "lamina"), (2, key)], socket)
            _ = try call("Remove", [(1, "lamina"), (2, key)], socket)
            let seconds = try call("Cleanup", [(1, "lamina")], socket)
            // The first call in a process also looks, in the background, for what a killed one left.
            if round == 0 { sleep(options.quick ? 1 : 10) } else { add("scale.cleanup", seconds * 1000) }
        }
    }

    /// Calls containerd's snapshots service, with text fields only.
    ///
    /// - Returns: seconds from the connection on until the answer.
    private func call(_ method: String, _ fields: [(number: UInt8, text: String)], _ socket: String) throws -> Double {
        var message: [UInt8] = []
        for (number, text) in fields { message += [number << 3 | 2, UInt8(text.utf8.count)] + Array(text.utf8) }
        // Not compressed, four bytes of length (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
        let frame = [0, 0, 0, 0, UInt8(message.count)] + message
        let body = space.run + "/call"
        try Data(frame).write(to: URL(fileURLWithPath: body))
        let answer = try run([
            "curl", "--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket", socket, "--data-binary",
            "@" + body, "--header", "content-type: application/grpc", "--header", "te: trailers", "--dump-header", "-",
            "--output", "/dev/null", "--write-out", "seconds:%{time_total}\n",
            "http://localhost/containerd.services.snapshots.v1.Snapshots/\(method)",
        ]).output
        guard answer.contains("grpc-status: 0"), let time = answer.components(separatedBy: "seconds:").last,
            let seconds = Double(time.trimmingCharacters(in: .whitespacesAndNewlines))
        else { throw Failure("\(method): \(answer)") }
        return seconds
    }
}
