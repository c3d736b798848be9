import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd.PlainLayers {
    /// The distance of checkpoints in bytes of output (`StreamReader.spacing`); a kill costs at most as many bytes of the blob.
    static let checkpoint: Int64 = 8 << 20

    /// What the pulls of one image have done, each ended by a kill.
    private struct Losses {
        /// Bytes that a pull fetched and the next one had to fetch again.
        var refetched: [Int64] = []
        /// From a pull's start to the first byte that no earlier pull had fetched, in seconds of a clock.
        var seconds: [Double] = []
        /// And in seconds of processors, which do not count other work on the machine.
        var processorSeconds: [Double] = []
        /// How much a pull had read from files until then.
        var readBytes: [Int64] = []
        /// How many bytes of the layer the registry has sent in all.
        var sent: Int64 = 0
        /// How long processors have worked until the kills, in all, in seconds.
        var allProcessorSeconds = 0.0
    }

    @Test(
        "after SIGKILL at random moments a pull costs at most a checkpoint more, goes on as fast wherever it was, by either library for gzip, and ends as if nothing had been"
    )
    func killed() throws {
        // `make kills`: a layer of 1 GiB and 50 kills; KILL_STREAMS layers one after the other.
        for _ in 0..<(getenv("LAMINA_KILL_STREAMS").flatMap { Int(String(cString: $0)) } ?? 1) { try killOneStream() }
    }

    private func killOneStream() throws {
        let mebibytes = getenv("LAMINA_KILL_MEBIBYTES").flatMap { Int(String(cString: $0)) } ?? 96
        let wanted = getenv("LAMINA_KILL_COUNT").flatMap { Int(String(cString: $0)) } ?? 8
        try Sandbox.with { sandbox in
            let tree = sandbox.directory + "/tree"
            let image = try makeImage(mebibytes: mebibytes, tree: tree, in: sandbox)
            let layer = try #require(Digest(parsing: image.layer))
            try Shared.registry.get().push(layout: image.layout, sourceTag: "latest", name: "killed", tag: "latest")
            let proxy = try sandbox.proxy()
            let reference = "\(proxy.host)/killed:latest"
            let losses = try kill(pullsOf: reference, layer, size: image.size, times: wanted, proxy, in: sandbox)
            proxy.reset()
            let report: PullReport = try decoded(sandbox.lamina("pull", "--json", reference, seconds: 300).output)
            #expect(report.complete && report.landedBytes == report.bytes)
            let sent = losses.sent + proxy.sentByteCount(of: layer)
            print(
                "\(wanted) kills: \(sent) bytes of a blob of \(image.size), \(Double(sent * 1000 / image.size) / 1000) times; a kill cost \(losses.refetched.max() ?? 0) bytes "
                    + "at most, \((sent - image.size) / Int64(wanted)) on average; a pull that goes on had new bytes after "
                    + "\(milliseconds(losses.seconds)) ms, of which processors worked \(milliseconds(losses.processorSeconds)), "
                    + "and after reading \(losses.readBytes.max() ?? 0) bytes of files at most")
            #expect(losses.refetched.allSatisfy { 0...Self.checkpoint ~= $0 }, "\(losses.refetched)")
            #expect(sent <= image.size + Int64(wanted) * Self.checkpoint)
            expectConstant(losses)
            let distances = try sandbox.sql(
                """
                SELECT min(d), max(d) FROM (SELECT output - lag(output) OVER (ORDER BY output) AS d FROM checkpoint)
                """)[0].split(separator: "|").compactMap { Int64($0) }
            #expect(distances.allSatisfy { (4 << 20)...(16 << 20) ~= $0 }, "\(distances)")
            try Sandbox.with { other in
                try other.lamina("pull", "oci:\(image.layout):latest", seconds: 300)
                try expectSameStores(sandbox, other)
            }
            let mount = try sandbox.mount(reference)
            try TreeOracle.expectSame(tree, at: mount, in: sandbox, keepsFractions: true)
        }
    }

    /// Makes an image of one gzip layer, of large and small files.
    private func makeImage(
        mebibytes: Int, tree: String, in sandbox: Sandbox
    ) throws -> (layout: String, layer: String, size: Int64) {
        let sizes = "a:\(mebibytes / 2),b:\(mebibytes / 4)"
        try run(["python3", "-c", Scripts.generate, tree, "11", sizes, "\(mebibytes * 30)"], seconds: 240).orThrow()
        let tar = sandbox.directory + "/layer.tar"
        try run(["tar", "-C", tree, "-cf", tar, "--format=posix", "--pax-option=delete=atime,delete=ctime", "."])
            .orThrow()
        return try PlainImages.layout(of: tar, "gzip", in: sandbox)
    }

    /// Starts pull after pull, and kills each after a random number of bytes has passed.
    private func kill(
        pullsOf reference: String, _ layer: Digest, size: Int64, times: Int, _ proxy: CountingProxy, in sandbox: Sandbox
    ) throws -> Losses {
        var generator = SystemRandomNumberGenerator()
        let points = (0..<times).map { _ in Int64.random(in: size / 100...size * 85 / 100, using: &generator) }.sorted()
        // Where the look at the end of the blob begins, before anything is known about the layer.
        let footer = size - (256 << 10)
        var losses = Losses()
        var reached: Int64 = 0
        func streamed() -> [Range<Int64>] {
            proxy.requests(of: layer).map(\.sent).filter { !$0.isEmpty && $0.lowerBound != footer }
        }
        func end() -> Int64 { streamed().map(\.upperBound).max() ?? 0 }
        for (number, point) in points.enumerated() {
            proxy.reset()
            let started = now()
            // Each goes on from what the other library has left.
            let gzip = number % 2 == 0 ? "auto" : "zlib"
            let pull = try sandbox.start(["pull", "--set", "store.gzip=\(gzip)", reference])
            if Int.random(in: 0..<5, using: &generator) == 0 {
                // While it is still finding out where it is.
                usleep(UInt32.random(in: 0..<100_000, using: &generator))
            } else {
                _ = eventually(seconds: 60) { end() > reached || !pull.isRunning }
                if reached > 0 {
                    losses.seconds.append(now() - started)
                    losses.processorSeconds.append(processorSeconds(of: pull.pid))
                    losses.readBytes.append(bytesRead(by: pull.pid))
                }
                _ = eventually(seconds: 120) { end() >= point || !pull.isRunning }
            }
            losses.allProcessorSeconds += processorSeconds(of: pull.pid)
            pull.send(SIGKILL)
            #expect(pull.wait(seconds: 10).signal == SIGKILL, "a pull ended before it was killed")
            if reached > 0 { #expect(try sandbox.number("SELECT count(*) FROM layer") == 0) }
            // The proxy may still count what it is sending.
            #expect(eventually { proxy.openConnectionCount == 0 })
            losses.sent += proxy.sentByteCount(of: layer)
            if reached > 0, let first = streamed().map(\.lowerBound).min() { losses.refetched.append(reached - first) }
            reached = max(reached, end())
        }
        return losses
    }

    /// The least and the most.
    private func milliseconds(_ seconds: [Double]) -> String {
        "\(Int(1000 * (seconds.min() ?? 0))) to \(Int(1000 * (seconds.max() ?? 0)))"
    }

    /// Expects that going on late in the layer takes no longer than early.
    private func expectConstant(_ losses: Losses) {
        let seconds = losses.processorSeconds
        guard let early = seconds[..<(seconds.count / 2)].min(), let late = seconds[(seconds.count / 2)...].min() else {
            return
        }
        // Each fetches and decompresses up to a checkpoint's worth of what was fetched before. It is chance that the early one
        // had none of it to do and the late one all of it.
        let checkpoint = losses.allProcessorSeconds / Double(max(losses.sent, 1)) * Double(Self.checkpoint)
        #expect(late <= 1.5 * early + checkpoint + 0.2, "\(seconds), \(checkpoint)")
        // Nothing that is done is read again; only the program, and pages of the index.
        #expect(losses.readBytes.allSatisfy { $0 <= 16 << 20 }, "\(losses.readBytes)")
    }

    /// Expects the same index and the same files in two stores.
    private func expectSameStores(_ sandbox: Sandbox, _ other: Sandbox) throws {
        for query in [
            "SELECT path, type, mode, uid, gid, bytes, modified_at, target, digest, state, inode FROM file ORDER BY path",
            "SELECT hex(digest), hex(claim), size, state, proof, sync <= (SELECT syncs FROM store), holes FROM content ORDER BY digest",
            "SELECT format, hex(diff_id), diff_id_state, toc_proof, first_inode, last_inode FROM layer",
            "SELECT blob_offset, inner_offset, blob_size, offset FROM chunk_source ORDER BY 1, 2",
            "SELECT count(*) FROM stream_entry", "SELECT state FROM stream",
        ] {
            #expect(try sandbox.sql(query) == other.sql(query), "\(query)")
        }
        let difference = try run(["diff", "-rq", sandbox.root + "/content", other.root + "/content"], seconds: 300)
        #expect(difference.exitCode == 0 && difference.output == "", "\(difference)")
        #expect(!sandbox.backingFiles().isEmpty)
    }

    /// How long processors have worked for a process so far, by proc_pid_stat(5).
    private func processorSeconds(of pid: pid_t) -> Double {
        guard let text = try? readFile("/proc/\(pid)/stat") else { return 0 }
        // The second field is a name in parentheses, which may contain anything; these are the 14th and the 15th.
        let fields = String(decoding: text, as: UTF8.self).split(separator: ")").last?.split(separator: " ") ?? []
        let ticks = fields.dropFirst(11).prefix(2).reduce(0) { $0 + (Double($1) ?? 0) }
        return ticks / Double(sysconf(Int32(_SC_CLK_TCK)))
    }

    /// How much a process has read with read(2) and similar calls, by proc_pid_io(5); what it received from sockets is not
    /// included.
    private func bytesRead(by pid: pid_t) -> Int64 {
        guard let text = try? readFile("/proc/\(pid)/io") else { return 0 }
        let line = String(decoding: text, as: UTF8.self).split(separator: "\n").first { $0.hasPrefix("rchar:") }
        return line.flatMap { $0.split(separator: " ").last }.flatMap { Int64($0) } ?? 0
    }
}
