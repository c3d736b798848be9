import Foundation

extension Bench {
    /// Reads of a merged file, everything in the page cache.
    func readsPart() throws {
        let image = try inputs.mixImage()
        let registry = try Registry(space, [image])
        defer { registry.process.end() }
        // The last pull's store, if there was one.
        let store = space.run + "/store-mix"
        if access(store + "/index.db", F_OK) != 0 { _ = try pull(registry, image, into: try space.fresh("store-mix")) }
        let server = try Server(space, store: store, reference: registry.reference(image))
        defer { server.end() }
        let sides = try Sides(self, of: "mix", server: server)
        defer { sides.end() }
        let file = "/large/big"
        try run("cmp", inputs.mix + file, server.mount + file)
        // Where in memory a copy's pages happen to lie makes a difference of a tenth, until they are dropped: so it is done
        // several times, and with the copy also the same file that lamina has the kernel read.
        try sides.addBacking(of: file, store: store, size: Inputs.big)
        let fills = rounds(5, quick: 1)
        for fill in 0..<fills { try reads(file, sides.all, turn: fill, rounds(15, quick: 7) / fills) }
    }

    /// Reads of one file with its pages where they happen to be.
    ///
    /// - Parameter turn: whose pages come first.
    private func reads(_ file: String, _ sides: [Side], turn: Int, _ count: Int) throws {
        // Pages come by reading on all sides: what was just written is in larger folios, which are faster to map.
        try dropCaches(3)
        for place in sides.indices { try loops.sequential(sides[(place + turn) % sides.count].path + file) }
        for pass in try interleaved(count, sides, { side in try timed { try loops.sequential(side.path + file) } }) {
            add("reads.sequential", pass, isRate: true) { Double(Inputs.big) / 1e6 / $0 }
        }
        let places = 300_000
        for pass in try interleaved(
            count, sides,
            { side in
                try timed { try loops.random(side.path + file, count: places) }
            })
        { add("reads.random", pass, isRate: true) { Double(places) / $0 } }
        // One takes some 7 ms, in which an interrupt is noticeable.
        let touches = 4
        for pass in try interleaved(
            count, sides,
            { side in
                try timed { for _ in 0..<touches { try loops.touch(side.path + file) } }
            })
        { add("reads.touch", pass, isRate: true) { Double(touches * Inputs.big / 4096) / $0 } }
    }

    /// The layer of 100,000 entries: into the index, and walked.
    func treePart() throws {
        let image = try inputs.treeImage()
        let registry = try Registry(space, [image])
        defer { registry.process.end() }
        let script = try inputs.inserts()
        for _ in 0..<rounds(7, quick: 3) {
            let database = try space.fresh("inserts") + "/plain.db"
            let inserting = try settled { try shell("sqlite3 \"$1\" < \"$2\" > /dev/null", database, script) }
            let store = try space.fresh("store-tree")
            let outcome = try settled { try pull(registry, image, into: store, lazy: true) }
            add("toc", outcome.usage.wall, against: inserting.wall)
            add("toc.cpu", outcome.usage.cpu)
            add("toc.rss", outcome.usage.peak)
            add("index.bytes", indexSize(store) / 100_000)
        }
        let server = try Server(space, store: space.run + "/store-tree", reference: registry.reference(image))
        defer { server.end() }
        let sides = try Sides(self, of: "tree", server: server)
        defer { sides.end() }
        let expected = try loops.walk(inputs.tree)
        func walk(_ side: Side, dropping what: Int) throws -> Double {
            try dropCaches(what)
            var count = 0
            let seconds = try timed { count = try loops.walk(side.path) }
            guard count == expected else { throw Failure("\(side.name) has \(count) entries instead of \(expected)") }
            return seconds
        }
        for pass in try interleaved(rounds(9, quick: 3), sides.all, { try walk($0, dropping: 2) }) {
            add("walk", pass, isRate: false) { $0 }
        }
        if !options.quick {
            for pass in try interleaved(5, Array(sides.all.prefix(2)), { try walk($0, dropping: 3) }) {
                add("walk.disk", pass, isRate: false) { $0 }
            }
        }
    }

    /// How much the index takes, with what is still in its log.
    private func indexSize(_ store: String) -> Double {
        Double(fileSize(store + "/index.db") + fileSize(store + "/index.db-wal"))
    }

    /// A server that starts with a million inodes in its index.
    func restartPart() throws {
        let image = try inputs.millionImage()
        let registry = try Registry(space, [image])
        defer { registry.process.end() }
        let store = try space.fresh("store-million")
        let outcome = try pull(registry, image, into: store, lazy: true)
        add("million.toc", outcome.usage.wall)
        add("million.rss", outcome.usage.peak)
        add("million.bytes", indexSize(store) / 1_000_000)
        let server = try Server(space, store: store, reference: registry.reference(image))
        defer { server.end() }
        for round in 0..<rounds(11, quick: 5) {
            add("restart", try server.restart(untilFound: Inputs.millionPath(round)) * 1000)
        }
        try lookups(server)
    }

    /// Single files looked up by name, in a store of a million inodes and in one of ten thousand.
    private func lookups(_ million: Server) throws {
        let image = try inputs.tenThousandImage()
        let registry = try Registry(space, [image])
        defer { registry.process.end() }
        let store = try space.fresh("store-ten-thousand")
        _ = try pull(registry, image, into: store, lazy: true)
        let server = try Server(space, store: store, reference: registry.reference(image))
        defer { server.end() }
        let count = 5000
        func microseconds(_ server: Server, directories: Int) throws -> Double {
            try dropCaches(2)
            // As many look-ups on both sides: those of the directories are not timed.
            let places = (0..<count).map { "\(server.view)/\(Inputs.directory($0 * 7919 % directories))" }
            try loops.attributes(Paths(places))
            let files = Paths(places.enumerated().map { "\($1)/file-\($0 / directories)" })
            return try timed { try loops.attributes(files) } / Double(count) * 1e6
        }
        for _ in 0..<rounds(11, quick: 5) {
            let small = try microseconds(server, directories: Inputs.millionDirectories / 100)
            add("lookup", try microseconds(million, directories: Inputs.millionDirectories), against: small)
        }
    }
}
