import Foundation
import Synchronization

extension Bench {
    /// The server's memory while much is read at once.
    func memoryPart() throws {
        let mix = try inputs.mixImage()
        // Reading 4 GiB takes too long for everyday use.
        let huge = options.quick ? nil : try inputs.hugeImage()
        let registry = try Registry(space, [mix] + (huge.map { [$0] } ?? []))
        defer { registry.process.end() }
        let small = Inputs.smallPaths
        for _ in 0..<rounds(5, quick: 1) {
            try withServer(registry, mix) { server in
                try readers(50) { number, loops in
                    let own = stride(from: number, to: small.count, by: 50).map { server.mount + "/" + small[$0] }
                    _ = try loops.readAll(Paths(own))
                    try loops.part(number, of: 50, of: server.mount + "/large/big")
                }
                add("rss.mix50", server.process.peak)
            }
        }
        guard let huge else { return }
        for readers in [1, 50] {
            for _ in 0..<3 {
                try withServer(registry, huge) { server in
                    try self.readers(readers) { number, loops in
                        try loops.part(number, of: readers, of: server.mount + "/huge")
                    }
                    add("rss.huge\(readers)", server.process.peak)
                }
            }
        }
    }

    /// This many threads at once; the first error of one of them is thrown.
    private func readers(_ count: Int, _ body: @escaping (Int, ReadLoops) throws -> Void) throws {
        let failure = Mutex<(any Error)?>(nil)
        let work = Work(body: body)
        let group = DispatchGroup()
        for number in 0..<count {
            group.enter()
            Thread.detachNewThread {
                do { try work.body(number, ReadLoops()) } catch { failure.withLock { $0 = $0 ?? error } }
                group.leave()
            }
        }
        group.wait()
        if let error = failure.withLock({ $0 }) { throw error }
    }

    /// @unchecked: the closure only reads what it captured, while `readers` waits for the threads that call it.
    private struct Work: @unchecked Sendable {
        let body: (Int, ReadLoops) throws -> Void
    }

    /// Layers of other kinds, compared with gzip alone.
    func formatsPart() throws {
        let images = [
            ("text", try inputs.textImage()), ("usr", try inputs.usrImage()), ("plain", try inputs.plainImage()),
        ]
        let registry = try Registry(space, images.map(\.1))
        defer { registry.process.end() }
        for (name, image) in images {
            try shell("cat \"$1\" > /dev/null", image.layer)
            for _ in 0..<rounds(5, quick: 1) {
                let store = try space.fresh("store")
                let pulled: PullOutcome
                do {
                    pulled = try settled { try pull(registry, image, into: store) }
                } catch  where name == "plain" {
                    let reason = "\(error)".split(separator: "lamina: ").last.map(String.init) ?? "\(error)"
                    absent("plain: lamina refuses it: \(reason)")
                    findings.note("plain.cpu", "lamina does not read ordinary gzip layers yet")
                    break
                }
                let gzip = try settled { try shell("gzip -dc \"$1\" > /dev/null", image.layer) }
                add("\(name).cpu", pulled.usage.cpu, against: gzip.cpu)
                add("\(name).wall", pulled.usage.wall, against: gzip.wall)
                add("\(name).written", pulled.usage.written / pulled.bytes)
                add("rss", pulled.usage.peak)
                try space.putAside(store)
            }
        }
    }

    /// Real files into an image, compared with common tools.
    func convertPart() throws {
        _ = try inputs.usrImage()
        try shell("tar -C \"$1\" -c . > /dev/null; find \"$1\" -type f -exec cat {} + > /dev/null", inputs.usr)
        for round in 0..<rounds(5, quick: 1) {
            let target = try space.fresh("converted")
            var tar: Usage?
            let compress = {
                guard isInstalled("pigz") else { return self.absent("convert: pigz is not installed") }
                tar = try self.settled {
                    try shell("tar -C \"$1\" -c . | pigz -6 > \"$2/layer\"", self.inputs.usr, target)
                }
            }
            if round % 2 == 0 { try compress() }
            let usage = try settled { try run(space.lamina, "convert", "dir:" + inputs.usr, "oci:\(target)/image:1") }
            if round % 2 == 1 { try compress() }
            if let tar {
                add("convert.wall", usage.wall, against: tar.wall)
                add("convert.cpu", usage.cpu, against: tar.cpu)
            }
            add("convert.rss", usage.peak)
            try space.putAside(target)
        }
    }
}

extension ReadLoops {
    /// Reads one of `count` equal parts of a file, 1 MiB a read.
    func part(_ number: Int, of count: Int, of path: String) throws {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw Failure.system(path) }
        defer { close(file) }
        let size = fileSize(path)
        var at = size / count * number
        let end = number == count - 1 ? size : size / count * (number + 1)
        while at < end {
            let got = try readPart(file, at: at, atMost: end - at, path)
            guard got > 0 else { throw Failure("\(path) ends at \(at)") }
            at += got
        }
    }
}
