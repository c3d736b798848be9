import Foundation

extension Bench {
    /// A sealed image under an overlay with an upper directory, as a container has it, compared with the same files of the disk
    /// under such an overlay.
    func sealedPart() throws {
        let image = try inputs.mixImage()
        let registry = try Registry(space, [image])
        defer { registry.process.end() }
        let store = try space.fresh("store-sealed")
        let reference = registry.reference(image)
        _ = try pull(registry, image, into: store)
        setenv("LAMINA_SEAL_MODE", "auto", 1)
        defer { setenv("LAMINA_SEAL_MODE", "off", 1) }
        try seal(store, reference)
        let target = try space.fresh("mnt-sealed")
        try run(
            space.lamina, "mount", "--root", store, "--sealed", "--rw", try space.fresh("upper-sealed"), reference,
            target)
        Cleanup.hold(mount: target)
        let disk = try space.fresh("mnt-disk")
        let (upper, work) = (try space.fresh("upper-disk"), try space.fresh("work-disk"))
        try run(
            "mount", "-t", "overlay", "overlay", "-o",
            "lowerdir=\(inputs.mix),upperdir=\(upper),workdir=\(work),index=off", disk)
        Cleanup.hold(mount: disk)
        defer {
            for mount in [target, disk] {
                if umount2(mount, 0) != 0 { umount2(mount, Int32(MNT_DETACH)) }
                Cleanup.release(mount: mount)
            }
        }
        let sides = [Side(name: "sealed", path: target), Side(name: "disk", path: disk)]
        try sealedSmall(sides)
        try sealedLarge(sides)
    }

    private func seal(_ store: String, _ reference: String) throws {
        for round in 0..<rounds(5, quick: 2) {
            if round > 0 { try run("sqlite3", store + "/index.db", "PRAGMA foreign_keys = ON; DELETE FROM sealed") }
            let (usage, output) = try run([space.lamina, "seal", "--json", "--root", store, reference])
            let result = try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any] ?? [:]
            let bytes = (result["bytes"] as? NSNumber)?.doubleValue ?? 0
            let inodes = (result["inodes"] as? NSNumber)?.doubleValue ?? 1
            add("sealed.seconds", usage.wall)
            add("sealed.bytes", bytes / inodes)
        }
    }

    private func compareSealed(_ id: String, _ passes: [[String: Double]]) {
        for pass in passes {
            guard let ours = pass["sealed"], let theirs = pass["disk"] else { continue }
            add(id, theirs, against: ours)
        }
    }

    private func sealedSmall(_ sides: [Side]) throws {
        let names = Inputs.smallPaths
        let paths = sides.map { side in (side.name, Paths(names.map { side.path + "/" + $0 })) }
        let prepared = Dictionary(uniqueKeysWithValues: paths)
        func files(_ side: Side) throws -> Paths {
            guard let known = prepared[side.name] else { throw Failure("no paths of \(side.name)") }
            return known
        }
        let bytes = try loops.readAll(files(sides[1]))
        guard try loops.readAll(files(sides[0])) == bytes else { throw Failure("the sealed image has other bytes") }
        let count = rounds(15, quick: 5)
        compareSealed(
            "sealed.small",
            try interleaved(count, sides) { side in
                let files = try files(side)
                return try timed { _ = try loops.readAll(files) }
            })
        compareSealed(
            "sealed.open",
            try interleaved(count, sides) { side in
                let times = try loops.openClose(files(side)).sorted()
                return times[times.count / 2]
            })
        compareSealed(
            "sealed.find", try interleaved(count, sides) { side in try timed { _ = try loops.walk(side.path) } })
        compareSealed(
            "sealed.cold",
            try interleaved(rounds(7, quick: 3), sides) { side in
                let files = try files(side)
                try dropCaches(3)
                return try timed { _ = try loops.readAll(files) }
            })
    }

    private func sealedLarge(_ sides: [Side]) throws {
        let file = "/large/big"
        try dropCaches(3)
        for side in sides { _ = try loops.sequential(side.path + file) }
        let count = rounds(9, quick: 5)
        compareSealed(
            "sealed.sequential", try interleaved(count, sides) { try timedSequential($0.path + file) })
        compareSealed(
            "sealed.random",
            try interleaved(count, sides) { side in try timed { try loops.random(side.path + file, count: 300_000) } })
        compareSealed(
            "sealed.touch",
            try interleaved(count, sides) { side in try timed { for _ in 0..<4 { try loops.touch(side.path + file) } } }
        )
    }

    private func timedSequential(_ path: String) throws -> Double { try timed { _ = try loops.sequential(path) } }
}
