import Foundation

extension Bench {
    /// The whole mix, from registry to store, compared with what gzip alone takes for it.
    func pullPart() throws {
        let image = try inputs.mixImage()
        let registry = try Registry(space, [image])
        defer { registry.process.end() }
        // No measurement should wait for the disk to read the layer.
        try shell("cat \"$1\" > /dev/null", image.layer)
        for round in 0..<rounds(5, quick: 2) {
            var gzip = Usage()
            let decompress = { gzip = try self.settled { try shell("gzip -dc \"$1\" > /dev/null", image.layer) } }
            if round % 2 == 0 { try decompress() }
            let store = try space.fresh("store-mix")
            let pulled = try settled { try pull(registry, image, into: store) }
            if round % 2 == 1 { try decompress() }

            add("pull.cpu", pulled.usage.cpu, against: gzip.cpu)
            add("pull.wall", pulled.usage.wall, against: gzip.wall)
            add("pull.written", pulled.usage.written / pulled.bytes)
            add("pull.fetched", pulled.fetched / Double(fileSize(image.layer)))
            add("rss", pulled.usage.peak)
            add("rss.pull", pulled.usage.peak)
            if !options.quick {
                let hash = try settled { try shell("gzip -dc \"$1\" | sha256sum", image.layer) }
                add("gzip-sha.cpu", hash.cpu)
                add("gzip-sha.wall", hash.wall)
                let target = try space.fresh("untarred")
                let tar = try settled { try shell("tar -C \"$2\" -xzf \"$1\"; sync -f \"$2\"", image.layer, target) }
                add("tar.cpu", tar.cpu)
                add("tar.wall", tar.wall)
                add("tar.written", tar.written / pulled.bytes)
                try space.putAside(target)
            }
        }
    }

    /// Runs something when everything that ran before has been written.
    func settled<Result>(_ body: () throws -> Result) rethrows -> Result {
        sync()
        return try body()
    }

    /// A server with its own store, with the image mounted and nothing of it fetched.
    func withServer(
        _ registry: Registry, _ image: Image, store name: String = "store", _ body: (Server) throws -> Void
    ) throws {
        let store = try space.fresh(name)
        sync()
        let server = try Server(space, store: store, reference: registry.reference(image))
        defer { server.end() }
        try body(server)
        add("rss", server.process.peak)
        server.end()
        try space.putAside(store)
    }

    /// One large file, from its first page to its last, in a store that has nothing of it.
    func largePart() throws {
        let image = try inputs.mixImage()
        let registry = try Registry(space, [image])
        defer { registry.process.end() }
        try shell("cat \"$1\" > /dev/null", image.layer)
        let compressed = try inputs.bigGzip()
        try shell("cat \"$1\" > /dev/null", compressed)
        for _ in 0..<rounds(5, quick: 2) {
            let gzip = try settled { try shell("gzip -dc \"$1\" > /dev/null", compressed) }
            try withServer(registry, image) { server in
                let (cpu, written, begin) = (server.process.cpu, server.process.written, now())
                let path = server.mount + "/large/big"
                let (seconds, file) = try loops.firstPage(path)
                defer { close(file) }
                guard try loops.drain(file, path) == Inputs.big else { throw Failure("\(path) is short") }
                add("large.first", seconds * 1000)
                add("large.wall", now() - begin)
                server.settle()
                add("large.cpu", server.used(since: cpu), against: gzip.cpu)
                add("large.written", (server.process.written - written) / Double(Inputs.big))
                add("rss.large", server.process.peak)
            }
        }
    }

    /// Twenty thousand files that the store does not have, one after the other; then again, when all of them are there.
    func smallPart() throws {
        let image = try inputs.mixImage()
        let registry = try Registry(space, [image])
        defer { registry.process.end() }
        try shell("cat \"$1\" > /dev/null", image.layer)
        let names = Inputs.smallPaths
        let archive = try inputs.smallTar()
        try shell("cat \"$1\" > /dev/null", archive)
        let count = rounds(5, quick: 2)
        for round in 0..<count {
            // In memory: how fast a disk takes new files depends on what was deleted there in the minutes before.
            let target = "/dev/shm/lamina-bench-unpacked"
            try removeTree(target)
            try makeDirectory(target)
            let tar = try settled { try shell("tar -C \"$2\" -xzf \"$1\"", archive, target) }
            try removeTree(target)
            try withServer(registry, image) { server in
                let paths = Paths(names.map { server.mount + "/" + $0 })
                var bytes = 0
                let cpu = server.process.cpu
                let seconds = try timed { bytes = try loops.readAll(paths) }
                server.settle()
                add("small.cold", Double(paths.count) / seconds, against: Double(paths.count) / tar.wall)
                add("small.cpu", server.used(since: cpu))
                add("rss.small", server.process.peak)
                if round == count - 1 { try again(server, names, bytes) }
            }
        }
    }

    private func again(_ server: Server, _ names: [String], _ bytes: Int) throws {
        let sides = try Sides(self, of: "mix", server: server)
        defer { sides.end() }
        let prepared = Dictionary(
            uniqueKeysWithValues: sides.all.map { side in (side.name, Paths(names.map { side.path + "/" + $0 })) })
        func paths(of side: Side) throws -> Paths {
            guard let known = prepared[side.name] else { throw Failure("no paths of \(side.name)") }
            return known
        }
        for side in sides.all {
            guard try loops.readAll(try paths(of: side)) == bytes else { throw Failure("\(side.name) has other bytes") }
        }
        for pass in try interleaved(
            rounds(11, quick: 3), sides.all,
            { side in
                let files = try paths(of: side)
                return try timed { _ = try loops.readAll(files) }
            })
        { add("small.again", pass, isRate: true) { Double(names.count) / $0 } }
        for pass in try interleaved(
            rounds(11, quick: 3), sides.all,
            { side in
                let times = try loops.openClose(try paths(of: side)).sorted()
                return times[times.count / 2]
            })
        { add("open", pass, isRate: false) { $0 * 1e6 } }
    }
}
