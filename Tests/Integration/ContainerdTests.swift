import Glibc
import LaminaDigest
import LaminaSystem
import LaminaTestSupport
import Testing

extension EndToEnd {
    @Suite(
        "under containerd",
        Requirements.tools("containerd", "ctr:containerd", "runc", "ctr-remote:stargz-snapshotter"))
    struct UnderContainerd {
        /// Runs a test with a containerd, and ends it before the sandbox is removed.
        static func with(
            _ configuration: String = "", _ body: (LaminaContainerd, Sandbox) throws -> Void
        ) throws {
            try Sandbox.with { sandbox in
                let containerd = try LaminaContainerd(sandbox, laminaConfiguration: configuration)
                defer { containerd.stop() }
                do {
                    try body(containerd, sandbox)
                } catch {
                    print("containerd:\n\(containerd.log.suffix(4000))")
                    throw error
                }
            }
        }

        @Test("eStargz and zstd:chunked are run without a layer downloaded, and can be written to")
        func lazy() throws {
            try Self.with { containerd, sandbox in
                let images = try ProgramImage.pushed.get()
                for (number, reference) in [images.estargz, images.zstdChunked].enumerated() {
                    try containerd.pullLazily(reference)
                    let lazy = try sandbox.sql(
                        "SELECT layer FROM snapshot_status WHERE lazy = 'yes' AND kind = 'committed'")
                    let all = try sandbox.sql("SELECT * FROM snapshot_status")
                    #expect(lazy.count == 2 * (number + 1), "\(all)")
                    #expect(try containerd.blobs().isDisjoint(with: lazy), "layers were downloaded")
                    let outcome = try containerd.run(
                        reference, "python\(number)", ["/usr/bin/python3", "-c", ProgramImage.program])
                    #expect(outcome.exitCode == 0 && outcome.output == "fine\n", "\(outcome)")
                    // The image is unchanged.
                    let again = try containerd.run(
                        reference, "sleep\(number)", ["/usr/bin/stat", "-c", "%a", "/usr/bin/sleep"])
                    #expect(again.output == "755\n", "\(again)")
                }
                #expect(containerd.lamina.child.errorsSoFar.contains("remote-snapshot-prepared=true"))
            }
        }

        @Test("an ordinary image is unpacked, and why is in the log, in the status and in a view")
        func fallback() throws {
            try Self.with { containerd, sandbox in
                let reference = try ProgramImage.pushed.get().plain
                try containerd.pull(reference)
                let outcome = try containerd.run(
                    reference, "plain", ["/usr/bin/python3", "-c", ProgramImage.program])
                #expect(outcome.exitCode == 0 && outcome.output == "fine\n", "\(outcome)")
                #expect(try sandbox.number("SELECT count(*) FROM snapshot_status WHERE lazy = 'yes'") == 0)
                try containerd.removeAll()
                #expect(try sandbox.number("SELECT count(*) FROM snapshot") == 0)

                // By a client that offers the layer for lazy mounting.
                try containerd.pullLazily(reference)
                let refusals = try sandbox.sql(
                    "SELECT refusal FROM snapshot_status WHERE kind = 'committed' ORDER BY name")
                #expect(refusals.count == 2 && refusals.allSatisfy { !$0.isEmpty }, "\(refusals)")
                #expect(refusals.contains { $0.contains("names no table of contents") }, "\(refusals)")
                #expect(refusals.contains { $0.contains("the layer below was unpacked") }, "\(refusals)")
                #expect(containerd.lamina.child.errorsSoFar.contains("remote-snapshot-prepared=false"))
                let status = try sandbox.lamina("status").output
                #expect(status.contains("names no table of contents"), "\(status)")
                let again = try containerd.run(reference, "again", ["/bin/sh", "-c", "echo fine"])
                #expect(again.output == "fine\n", "\(again)")
            }
        }

        @Test(
            "what containerd mounts of the fixture images is its own tree of them, with /srv/private as it is",
            arguments: FixtureImages.names + ["plain-gzip"])
        func fixtures(_ name: String) throws {
            let isLazy = name != "plain-gzip"
            try Self.with { containerd, sandbox in
                let reference = try FixtureImages.reference(name, sandbox)
                if isLazy { try containerd.pullLazily(reference) } else { try containerd.pull(reference) }
                let lazy = try sandbox.sql("SELECT DISTINCT lazy FROM snapshot_status")
                #expect(lazy == [isLazy ? "yes" : "no"])
                let mount = try sandbox.mountPoint("view")
                try containerd.mountImage(reference, at: mount)
                defer { try? containerd.unmountImage(mount) }
                try TreeOracle.expectFixture(
                    at: mount, in: sandbox, name, keepsFractions: !isLazy || FixtureImages.keepsFractions(name))
                let secret = try run(["stat", "-c", "%a %u:%g", mount + "/srv/private"]).output
                #expect(secret == "700 1000:1001\n")
                let report = try containerd.check()
                #expect(report.differences == [] && report.lazyLayers == (isLazy ? 3 : 0), "\(report)")
            }
        }

        @Test("a second namespace has the layers at once, and when both have removed the image nothing is left")
        func namespaces() throws {
            try Self.with { containerd, sandbox in
                let reference = try ProgramImage.pushed.get().estargz
                try containerd.pullLazily(reference)
                try containerd.pullLazily(reference, namespace: "other")
                #expect(try sandbox.number("SELECT count(*) FROM snapshot WHERE view IS NOT NULL") == 2)
                try containerd.ctr("images", "rm", "--sync", reference).orThrow()
                #expect(try sandbox.number("SELECT count(*) FROM snapshot WHERE view IS NOT NULL") == 2)
                try containerd.removeAll(namespaces: ["other"])
                #expect(try sandbox.number("SELECT count(*) FROM snapshot") == 0)
                #expect(try sandbox.number("SELECT count(*) FROM snapshot_label") == 0)
                #expect(eventually { names(in: sandbox.root + "/snapshots").isEmpty })
            }
        }

        @Test("an image is whole after a while, with nothing opened, unless background_merge is off")
        func background() throws {
            for isOn in [true, false] {
                try Self.with("[snapshotter]\nbackground_merge = \(isOn)\n") { containerd, sandbox in
                    let reference = try ProgramImage.pushed.get().estargz
                    try containerd.pullLazily(reference)
                    func isWhole() throws -> Bool {
                        try sandbox.number("SELECT count(*) FROM layer_status WHERE state <> 'complete'") == 0
                    }
                    if isOn {
                        #expect(try eventually(seconds: 60, isWhole))
                    } else {
                        sleep(2)
                        #expect(try !isWhole())
                    }
                }
            }
        }

        /// Makes images of `files` files that all have and one of their own (`own`: its number), and pushes them.
        static func pushed(_ count: Int, files: Int, _ sandbox: Sandbox) throws -> [String] {
            let registry = try Shared.registry.get()
            let tree = try sandbox.mountPoint("tree")
            try run(["/bin/sh", "-c", "for n in $(seq $2); do echo common $n >\"$1/$n\"; done", "sh", tree, "\(files)"])
                .orThrow()
            return try (0..<count).map { number in
                try run(["/bin/sh", "-c", "echo \"$2\" >\"$1/own\"", "sh", tree, "\(number)"]).orThrow()
                let layout = "\(sandbox.directory)/\(number).oci"
                try sandbox.lamina("convert", "dir:\(tree)", "oci:\(layout):latest")
                try registry.push(layout: layout, sourceTag: "latest", name: "many-\(files)/\(number)", tag: "1")
                return "\(registry.host)/many-\(files)/\(number):1"
            }
        }

        @Test("fifty images are pulled at the same time, and when all are removed nothing is left")
        func concurrent() throws {
            try Self.with { containerd, sandbox in
                let references = try Self.pushed(50, files: 20, sandbox)
                let pulls = try references.map { try containerd.startLazyPull($0) }
                for pull in pulls { try pull.wait(seconds: 240).orThrow() }
                let refusals = try sandbox.sql("SELECT DISTINCT refusal FROM snapshot_status WHERE refusal IS NOT NULL")
                #expect(refusals.isEmpty, "\(refusals)")
                #expect(try sandbox.number("SELECT count(*) FROM snapshot_status WHERE lazy = 'yes'") == 50)
                for number in [0, 17, 49] {
                    let mount = try sandbox.mountPoint("view\(number)")
                    try containerd.mountImage(references[number], at: mount)
                    #expect(try run(["cat", mount + "/own"]).output == "\(number)\n")
                    try containerd.unmountImage(mount)
                }
                try containerd.removeAll()
                #expect(try sandbox.number("SELECT count(*) FROM snapshot") == 0)
                #expect(eventually { names(in: sandbox.root + "/snapshots").isEmpty })
                #expect(try eventually(seconds: 20) { try sandbox.number("SELECT count(*) FROM content") == 0 })
                #expect(try sandbox.number("SELECT count(*) FROM layer") == 0)
                #expect(sandbox.backingFiles().isEmpty)
            }
        }

        @Test("an image of 128 layers is pulled lazily and mounted")
        func manyLayers() throws {
            try Self.with { containerd, sandbox in
                let layout = sandbox.directory + "/many.oci"
                let files = try sandbox.mountPoint("files")
                let script = """
                    set -e; cd "$1"; mkdir dir
                    for n in $(seq 128); do echo $n >dir/$n; tar -cf $n.tar dir/$n; done
                    """
                try run(["/bin/sh", "-c", script, "sh", files]).orThrow()
                try LayeredImages.make(layout, of: (1...128).map { "\(files)/\($0).tar" })
                let converted = sandbox.directory + "/many-lazy.oci"
                try sandbox.lamina("convert", "oci:\(layout):latest", "oci:\(converted):latest", seconds: 240)
                let registry = try Shared.registry.get()
                try registry.push(layout: converted, sourceTag: "latest", name: "many", tag: "latest")
                let reference = "\(registry.host)/many:latest"
                try containerd.pullLazily(reference)
                #expect(try sandbox.number("SELECT count(*) FROM snapshot_status WHERE lazy = 'yes'") == 128)
                let mount = try sandbox.mountPoint("view")
                try containerd.mountImage(reference, at: mount)
                defer { try? containerd.unmountImage(mount) }
                #expect(names(in: mount + "/dir").count == 128)
                try run(["/bin/sh", "-c", "for n in $(seq 128); do [ \"$(cat $1/dir/$n)\" = $n ]; done", "sh", mount])
                    .orThrow()
            }
        }
    }
}
